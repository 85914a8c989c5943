"""That a file computes the tokens that are read, and small heads without copies, and answers as before."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_export import bert, vit
from transformers import BertModel

from compressor.export.onnx import write_onnx
from compressor.export.read_tokens import keep_read_tokens
from compressor.export.token_order import LARGEST_HEAD, put_tokens_first

TOKENS, WIDTH = 5, 4


def two_products(between, place=0, *, outputs=("y",)):
    """Two products with weights, `between` them a node of the first one's output h; one token of the second is read."""
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((WIDTH, WIDTH)).astype(np.float32) for name in ("first", "second")}
    constants = weights | {"index": np.array(place), "axis": np.array(1), "scale": np.ones(WIDTH, np.float32)}
    constants |= {"mask": random.standard_normal((1, TOKENS, 1)).astype(np.float32)}
    kind, inputs, attributes = between
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node(kind, inputs, ["m"], **attributes),
        helper.make_node("MatMul", ["m", "second"], ["z"]),
        helper.make_node("Gather", ["z", "index"], ["y"], axis=1),
    ]
    shape = ["batch", TOKENS, WIDTH]
    values = {"x": shape, "h": shape, "m": shape, "z": shape, "y": ["batch", WIDTH]}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()}
    graph = helper.make_graph(
        nodes, "products", [infos["x"]], [infos[name] for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=[infos[name] for name in "hmz" if name not in outputs],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def ran(model, **feed):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def tokens_of_products(model):
    """How many tokens each product of a graph is computed for."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in inferred.value_info}
    return [shapes[node.output[0]][1].dim_value for node in inferred.node if node.op_type == "MatMul"]


@pytest.mark.parametrize(
    ("between", "computed"),
    [
        (("Add", ["h", "scale"], {}), [1, 1]),
        (("Mul", ["h", "h"], {}), [1, 1]),
        (("LayerNormalization", ["h", "scale"], {}), [1, 1]),
        (("Softmax", ["h"], {"axis": -1}), [1, 1]),
        # A value of every token's own is selected too.
        (("Add", ["h", "mask"], {}), [1, 1]),
        # A residual stream.
        (("Add", ["h", "x"], {}), [1, 1]),
        # Over tokens.
        (("Softmax", ["h"], {"axis": 1}), [TOKENS, 1]),
        (("CumSum", ["h", "axis"], {}), [TOKENS, 1]),
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_only_the_token_that_is_read_is_computed(between, computed, place):
    before = two_products(between, place)
    model = ir.from_proto(before)
    keep_read_tokens(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    assert tokens_of_products(after) == computed
    x = np.random.default_rng(1).standard_normal((3, TOKENS, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(ran(after, x=x)[0], ran(before, x=x)[0], rtol=1e-5, atol=1e-6)


def test_what_is_read_elsewhere_is_computed_in_full():
    model = ir.from_proto(two_products(("Add", ["h", "scale"], {}), outputs=("y", "m")))
    keep_read_tokens(model)
    after = ir.to_proto(model)
    assert tokens_of_products(after) == [TOKENS, 1]
    assert ran(after, x=np.ones((2, TOKENS, WIDTH), np.float32))[1].shape == (2, TOKENS, WIDTH)


@pytest.mark.parametrize("make", [vit, bert])
def test_a_classifiers_last_layer_computes_one_token(tmp_path, make):
    report = write_onnx(make(), tmp_path, batch_sizes=(1, 3))
    assert report.parity.max_rel < 1e-5
    graph = ir.load(report.path).graph
    products = [node for node in graph if node.op_type == "MatMul" and node.inputs[1].is_initializer()]
    widths = [node.outputs[0].shape[1] for node in products]
    # Of the one layer: keys and values of all tokens, stored with tokens first; query, output and feed-forward of one.
    assert [width == 1 for width in widths].count(True) >= 3


def test_features_are_of_all_tokens(tmp_path):
    report = write_onnx(bert(BertModel), tmp_path, batch_sizes=(1, 3))
    assert report.parity.max_rel < 1e-5
    assert all(node.outputs[0].shape[1] != 1 for node in ir.load(report.path).graph if node.op_type == "MatMul")


def attention(head_dim):
    """Two heads' logits, as torch's exporter writes them, of x [batch, T, 2 × head_dim]."""
    random, width = np.random.default_rng(0), 2 * head_dim
    constants = {
        "wq": random.standard_normal((width, width)).astype(np.float32),
        "wk": random.standard_normal((width, width)).astype(np.float32),
        "bias": random.standard_normal(width).astype(np.float32),
        "scale": np.float32(head_dim**-0.5), "heads": np.array([-1, TOKENS, 2, head_dim]),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q0"]), helper.make_node("Add", ["q0", "bias"], ["q1"]),
        helper.make_node("Reshape", ["q1", "heads"], ["q2"]),
        helper.make_node("Transpose", ["q2"], ["q3"], perm=[0, 2, 1, 3]),
        helper.make_node("Mul", ["q3", "scale"], ["q4"]),
        helper.make_node("MatMul", ["x", "wk"], ["k0"]), helper.make_node("Reshape", ["k0", "heads"], ["k1"]),
        helper.make_node("Transpose", ["k1"], ["k2"], perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["k2"], ["k3"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q4", "k3"], ["y"]),
    ]  # fmt: skip
    flat, split = ["batch", TOKENS, width], ["batch", TOKENS, 2, head_dim]
    values = {"x": flat, "q0": flat, "q1": flat, "k0": flat, "q2": split, "k1": split}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()}
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, TOKENS, TOKENS])
    graph = helper.make_graph(
        nodes, "attention", [infos.pop("x")], [output],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        value_info=list(infos.values()),
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("head_dim", "orders"),
    [
        (8, [[1, 0, 2], [1, 2, 0, 3], [1, 2, 3, 0]]),
        # Copies of larger heads cost little.
        (2 * LARGEST_HEAD, [[0, 2, 1, 3], [0, 2, 1, 3], [0, 1, 3, 2]]),
    ],
)
def test_small_heads_are_read_where_they_lie(head_dim, orders):
    before = attention(head_dim)
    model = ir.from_proto(before)
    put_tokens_first(model)
    assert [list(node.attributes.get_ints("perm")) for node in model.graph if node.op_type == "Transpose"] == orders
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    x = np.random.default_rng(1).standard_normal((3, TOKENS, 2 * head_dim)).astype(np.float32)
    np.testing.assert_allclose(ran(after, x=x)[0], ran(before, x=x)[0], rtol=1e-4, atol=1e-5)


def test_heads_that_are_returned_keep_their_order():
    before = attention(8)
    before.graph.output.append(helper.make_tensor_value_info("k2", TensorProto.FLOAT, ["batch", 2, TOKENS, 8]))
    model = ir.from_proto(before)
    put_tokens_first(model)
    x = np.random.default_rng(1).standard_normal((3, TOKENS, 16)).astype(np.float32)
    for expected, found in zip(ran(before, x=x), ran(ir.to_proto(model), x=x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_onnx_runtime_fuses_the_transpositions(tmp_path):
    model = ir.from_proto(attention(8))
    put_tokens_first(model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    left = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert left.count("Transpose") == 1 and "FusedMatMul" in left
