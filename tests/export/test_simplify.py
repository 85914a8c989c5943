"""That a simplified graph computes what the traced one does, and that a guard stays where it is needed."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_export import mistral, vit

from compressor.export.onnx import write_onnx
from compressor.export.simplify import node_counts, simplify


def attention(masked, seen, rank=4):
    """A graph as torch's exporter writes it for scaled_dot_product_attention, of q [2, 3, 5, 4] and keys alike."""
    shape = [2, 3, 5, 4][4 - rank :]
    constants = {
        "zero": np.float32(0), "masked": np.float32(masked), "minus": np.array([-1]), "two": np.array([-2]),
        "first": np.array([-(2**63)]), "last": np.array([2**63 - 1]),
        "seen": np.array(seen).reshape(1, 1, 1, -1)[(0,) * (4 - rank)],
    }  # fmt: skip
    nodes = [
        ("Shape", ["k"], "shape", {"start": 0}),
        ("Slice", ["shape", "minus", "last"], "channels", {}),
        ("Slice", ["shape", "two", "minus"], "tokens", {}),
        ("Slice", ["shape", "first", "two"], "others", {}),
        ("Concat", ["minus", "tokens", "channels"], "folded", {"axis": 0}),
        ("Reshape", ["k", "folded"], "k3", {}),
        ("Transpose", ["k3"], "k3t", {"perm": [0, 2, 1]}),
        ("Concat", ["others", "channels", "tokens"], "unfolded", {"axis": 0}),
        ("Reshape", ["k3t", "unfolded"], "kt", {}),
        ("MatMul", ["q", "kt"], "logits", {}),
        ("Where", ["seen", "zero", "masked"], "mask", {}),
        ("Add", ["logits", "mask"], "sum", {}),
        ("Softmax", ["sum"], "shares", {"axis": -1}),
        ("IsNaN", ["shares"], "missing", {}),
        ("Where", ["missing", "zero", "shares"], "guarded", {}),
        ("MatMul", ["guarded", "k"], "y", {}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made], **attributes) for kind, given, made, attributes in nodes], "attention",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("q", "k")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def simplified(model):
    made = ir.from_proto(model)
    simplify(made)
    return ir.to_proto(made), node_counts(made)


def result(model, shape):
    random = np.random.default_rng(0)
    feed = {name: random.standard_normal(shape).astype(np.float32) for name in ("q", "k")}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize(
    ("masked", "seen", "left"),
    [
        # The softmax of finite numbers has no NaN.
        (-3e38, [True, False, True, True, False], {"MatMul": 2, "Transpose": 1, "Where": 1, "Add": 1, "Softmax": 1}),
        # A mask that lets all through is no mask, infinite or not.
        (-np.inf, [True] * 5, {"MatMul": 2, "Transpose": 1, "Softmax": 1}),
        # Everything may be masked: the zeros are needed.
        (-np.inf, [False] * 5,
         {"MatMul": 2, "Where": 2, "Transpose": 1, "Add": 1, "Softmax": 1, "IsNaN": 1}),
    ],
)  # fmt: skip
def test_what_is_removed(masked, seen, left, rank):
    before = attention(masked, seen, rank)
    after, counts = simplified(before)
    assert counts == left
    shape = [2, 3, 5, 4][4 - rank :]
    np.testing.assert_allclose(result(after, shape), result(before, shape), rtol=1e-6, atol=1e-7)


def test_other_transposed_keys_stay():
    model = attention(-3e38, [True] * 5)
    # Heads and tokens in another order are no transposition of the last two axes.
    unfolded = next(node for node in model.graph.node if node.output[0] == "unfolded")
    unfolded.input[:] = ["others", "tokens", "channels"]
    del model.graph.node[model.graph.node[:].index(unfolded) + 2 :]
    model.graph.output[0].name = "kt"
    _, counts = simplified(model)
    assert counts["Reshape"] == 2


def test_an_image_model_has_no_mask_and_no_chains_of_shapes(tmp_path):
    report = write_onnx(vit(), tmp_path, batch_sizes=(2,))
    counts = node_counts(ir.load(report.path))
    assert not {"IsNaN", "Where"} & set(counts) and counts["Reshape"] == 5
    assert report.parity.max_rel < 1e-5


def test_an_empty_past_may_have_no_samples(tmp_path):
    path = write_onnx(mistral(), tmp_path, batch_sizes=(2,)).path
    ids = np.arange(6).reshape(2, 3) + 3
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(3)[None].repeat(2, 0)}
    session = onnxruntime.InferenceSession(path)
    names = ("past_key_values.0.key", "past_key_values.0.value")
    pasts = [dict.fromkeys(names, np.zeros((batch, 1, 0, 8), np.float32)) for batch in (2, 0)]
    given = [session.run(None, feed | past) for past in pasts]
    for expected, found in zip(*given, strict=True):
        np.testing.assert_array_equal(found, expected)
