"""Removing what a traced graph computes in vain, exactly: what is left computes the same values.

torch's exporter writes attention for any mask and any rank: each layer replaces NaNs of its softmax by zeros, which
there are only where a mask is infinite, and swaps the last two axes of its keys through shapes computed anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.rewriter import MatchResult, pattern, rewrite
from onnxscript.rewriter.rules.common import transpose_transpose_rule

from compressor.export.graph_values import concatenated, constant_list, constant_of
from compressor.export.read_tokens import keep_read_tokens
from compressor.export.token_order import put_tokens_first

#: Larger constants are not compared with each other.
_LARGEST_SHARED = 64
#: A bound of a slice beyond every rank means an end of the shape.
_ANY_RANK = 1000


def simplify(model: ir.Model) -> None:
    """Simplify a traced graph in place: masks that mask nothing, guards, transposed keys, and repeated computations."""
    _take_batch_from_tokens(model)
    rewrite(model, pattern_rewrite_rules=[_WithoutMask.rule(), _Swapped.rule(), transpose_transpose_rule])
    passes.IdentityEliminationPass()(model)
    rewrite(model, pattern_rewrite_rules=[_Unguarded.rule()])
    keep_read_tokens(model)
    put_tokens_first(model)
    ir.passes.Sequential(
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(size_limit=_LARGEST_SHARED),
        passes.RemoveUnusedNodesPass(),
    )(model)


def _take_batch_from_tokens(model: ir.Model) -> None:
    """Read the batch size off the tokens, not off the past: some tools pass an empty past of no samples."""
    inputs = {value.name: value for value in model.graph.inputs}
    if "input_ids" not in inputs:
        return
    for node in model.graph:
        past = node.inputs[0] if node.op_type == "Shape" else None
        if past is None or past is not inputs.get(past.name) or not str(past.name).startswith("past_key_values."):
            continue
        if (_axis(node, "start"), _axis(node, "end")) == (0, 1):
            node.replace_input_with(0, inputs["input_ids"])


def _axis(node: ir.Node, name: str) -> int | None:
    """A bound of a `Shape` node's axes."""
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else None if name == "end" else 0


def node_counts(model: ir.Model) -> dict[str, int]:
    """{operation: number of nodes}, most frequent first."""
    types = [node.op_type for node in model.graph]
    return {name: types.count(name) for name in sorted(set(types), key=lambda name: -types.count(name))}


class _Unguarded(pattern.RewriteRuleClassBase):
    """The softmax of finite numbers is a number: no NaN has to be replaced."""

    def pattern(self, op: Any, shares: Any, zero: Any) -> Any:
        return op.Where(op.IsNaN(shares), zero, shares)

    def check(self, context: Any, shares: ir.Value, zero: ir.Value) -> MatchResult:
        softmax = shares.producer()
        return _matched(softmax is not None and softmax.op_type == "Softmax" and _is_finite(softmax.inputs[0]))

    def rewrite(self, op: Any, shares: ir.Value, zero: ir.Value) -> Any:
        return op.Identity(shares)


class _WithoutMask(pattern.RewriteRuleClassBase):
    """A mask that lets all through adds nothing."""

    def pattern(self, op: Any, x: Any, mask: Any) -> Any:
        return op.Add(x, mask)

    def check(self, context: Any, x: ir.Value, mask: ir.Value) -> MatchResult:
        where = mask.producer()
        if where is None or where.op_type != "Where" or not _is_all_true(where.inputs[0]):
            return _matched(False)
        values = constant_of(where.inputs[1])
        return _matched(values is not None and values.size == 1 and not values.any())

    def rewrite(self, op: Any, x: ir.Value, mask: ir.Value) -> Any:
        return op.Identity(x)


class _Swapped(pattern.RewriteRuleClassBase):
    """Folding all axes but the last two into one, swapping these, and unfolding is one transposition."""

    def pattern(self, op: Any, x: Any, folded: Any, unfolded: Any, swap: Any) -> Any:
        return op.Reshape(op.Transpose(op.Reshape(x, folded), perm=swap), unfolded)

    def check(self, context: Any, x: ir.Value, folded: ir.Value, unfolded: ir.Value, swap: ir.Attr) -> MatchResult:
        if list(swap.as_ints()) != [0, 2, 1] or x.shape is None or len(x.shape) < 3:
            return _matched(False)
        first, last, before = [-1], (-1, None), (-2, -1)
        places, leading = concatenated(folded), (None, -2)
        if places is None or constant_list(places[0]) != first or len(places) != 3:
            return _matched(False)
        swapped = concatenated(unfolded)
        return _matched(
            swapped is not None
            and [_part_of_shape(value, x) for value in places[1:]] == [before, last]
            and [_part_of_shape(value, x) for value in swapped] == [leading, last, before]
        )

    def rewrite(self, op: Any, x: ir.Value, folded: ir.Value, unfolded: ir.Value, swap: ir.Attr) -> Any:
        assert x.shape is not None
        rank = len(x.shape)
        return op.Transpose(x, perm=[*range(rank - 2), rank - 1, rank - 2])


def _matched(condition: bool) -> MatchResult:
    result = MatchResult()
    return result if condition else result.fail("the values do not allow it")


def _is_finite(x: ir.Value | None) -> bool:
    """Whether a softmax's input is a product, or that plus a mask of finite numbers."""
    producer = None if x is None else x.producer()
    if producer is None or producer.op_type != "Add":
        return producer is not None and producer.op_type in ("MatMul", "Mul", "Div")
    parts = [value.producer() for value in producer.inputs if value is not None]
    masks = [part for part in parts if part is not None and part.op_type == "Where"]
    others = [part for part in parts if part is not None and part.op_type in ("MatMul", "Mul", "Div")]
    return len(masks) == len(others) == 1 and all(_is_finite_constant(value) for value in masks[0].inputs[1:])


def _is_finite_constant(value: ir.Value | None) -> bool:
    values = constant_of(value)
    return values is not None and bool(np.isfinite(values).all())


def _is_all_true(value: ir.Value | None) -> bool:
    """Whether a condition is constant and true, whatever shape it is expanded to."""
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Expand":
        value = producer.inputs[0]
    values = constant_of(value)
    return values is not None and bool(values.all())


def _part_of_shape(value: ir.Value | None, x: ir.Value) -> tuple[int | None, int | None] | None:
    """(begin, end) of the axes of x whose sizes a value holds; None for an end of the shape, or if it is another."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Slice" or len(node.inputs) != 3:
        return None
    shape = node.inputs[0].producer() if node.inputs[0] is not None else None
    if shape is None or shape.op_type != "Shape" or shape.inputs[0] is not x:
        return None
    if (_axis(shape, "start"), _axis(shape, "end")) != (0, None):
        return None
    bounds = [constant_list(bound) for bound in node.inputs[1:]]
    if any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    begin, end = (bound[0] for bound in bounds if bound is not None)
    return (None if begin < -_ANY_RANK else begin), (None if end > _ANY_RANK else end)
