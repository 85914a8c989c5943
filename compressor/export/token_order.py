"""Attention's heads without copies: tokens before samples, where heads are small.

Torch splits heads by copying queries, keys and values [B, T, H, d] to [B, H, T, d].  With tokens first, [T, B, H, d],
their products read them as they lie, with strides: ONNX Runtime fuses these transpositions into its products
(`transBatchA` of `FusedMatMul`), and copies the others.  One transposition of the layer's input, of rows of all
channels, takes the place of three, of rows of a head's.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import transpose_transpose_rule

from compressor.export.graph_values import concatenated, constant_list, constant_of, integers, sizes_of

#: Channels of a head above which copies cost nothing that is seen (benchmarks/NOTES.md).
LARGEST_HEAD = 32
_BY_HEAD, _TOKENS_FIRST, _SWAPPED = [0, 2, 1, 3], [1, 2, 0, 3], [0, 1, 3, 2]


def put_tokens_first(model: ir.Model) -> None:
    """Let small heads' queries, keys and values be computed with tokens before samples, in place."""
    turned: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        if node.op_type == "Transpose" and (path := _projection(node)) is not None and _feeds_products(node):
            _turn(model.graph, node, path, turned)
    if turned:
        rewrite(model, pattern_rewrite_rules=[transpose_transpose_rule])


def _projection(split: ir.Node) -> list[ir.Node] | None:
    """The nodes from the input of a layer [B, T, channels] to heads [B, T, H, d] that a transposition reads, if so."""
    if list(split.attributes.get_ints("perm")) != _BY_HEAD:
        return None
    sizes = sizes_of(split.inputs[0])
    if sizes is None or not isinstance(sizes[3], int) or sizes[3] > LARGEST_HEAD:
        return None
    path = [node for node in (_only_reader(split.inputs[0], "Reshape"),) if node is not None]
    if not path or not _names_each_axis(path[0]):
        return None
    before = sizes_of(path[0].inputs[0])
    if before is None or len(before) != 3 or None in before[:2] or before[:2] != sizes[:2]:
        return None
    value = path[0].inputs[0]
    if (bias := _only_reader(value, "Add")) is not None:
        one_axis = [len(sizes_of(each) or [0, 0]) == 1 for each in bias.inputs]
        if sum(one_axis) != 1:
            return None
        path.append(bias)
        value = bias.inputs[one_axis.index(False)]
    product = _only_reader(value, "MatMul")
    if product is None or len(sizes_of(product.inputs[1]) or []) != 2 or len(sizes_of(product.inputs[0]) or []) != 3:
        return None
    return [product, *reversed(path)]


def _only_reader(value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node of that kind that makes a value which nothing else reads."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != kind or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return node


def _names_each_axis(reshape: ir.Node) -> bool:
    """Whether a reshape's new shape is a constant without zeros, or made of one entry for each of four axes."""
    if (shape := constant_list(reshape.inputs[1])) is not None:
        return 0 not in shape
    parts = concatenated(reshape.inputs[1])
    return parts is not None and len(parts) == 4 and all(sizes_of(part) == [1] for part in parts)


def _feeds_products(split: ir.Node) -> bool:
    """Whether heads are only multiplied, perhaps scaled or with their last two axes swapped before."""
    value = split.outputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        (use,) = value.uses()
        if use.node.op_type == "MatMul":
            return True
        if not _scales_or_swaps(use.node, use.idx):
            return False
        value = use.node.outputs[0]
    return False


def _scales_or_swaps(node: ir.Node, index: int) -> bool:
    if node.op_type == "Mul":
        scale = constant_of(node.inputs[1 - index])
        return scale is not None and scale.size == 1
    return node.op_type == "Transpose" and list(node.attributes.get_ints("perm")) == _SWAPPED


def _turn(graph: ir.Graph, split: ir.Node, path: list[ir.Node], turned: dict[ir.Value, ir.Value]) -> None:
    """Compute a projection with tokens first."""
    product, reshape = path[0], path[-1]
    source = product.inputs[0]
    assert source is not None
    if source not in turned:
        swap = ir.node("Transpose", [source], {"perm": [1, 0, 2]})
        swap.outputs[0].name = f"{source.name}_tokens_first"
        swap.outputs[0].type, swap.outputs[0].shape = source.type, _swapped(source)
        product.prepend(swap)
        turned[source] = swap.outputs[0]
    product.replace_input_with(0, turned[source])
    if (shape := constant_list(reshape.inputs[1])) is not None:
        shape[:2] = shape[1::-1]
        given = integers(graph, f"shape_{'_'.join(map(str, shape))}", np.array(shape, np.int64))
    else:
        parts = concatenated(reshape.inputs[1])
        assert parts is not None
        joined = ir.node("Concat", [parts[1], parts[0], *parts[2:]], {"axis": 0})
        joined.outputs[0].name = f"{split.outputs[0].name}_tokens_first_shape"
        reshape.prepend(joined)
        given = joined.outputs[0]
    reshape.replace_input_with(1, given)
    for node in path:
        node.outputs[0].shape = _swapped(node.outputs[0])
    split.attributes["perm"] = ir.AttrInt64s("perm", _TOKENS_FIRST)


def _swapped(value: ir.Value) -> ir.Shape | None:
    if value.shape is None:
        return None
    first, second, *others = value.shape
    return ir.Shape([second, first, *others])
