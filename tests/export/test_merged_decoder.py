"""Two decoders in one file: each branch is its decoder, and their weights lie in it once."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.export.half import HalfSession
from compressor.export.merged_decoder import merge_decoders
from compressor.export.runtime import Session

WIDTH, WORDS = 32, 100
KEYS = [f"0.{part}.key" for part in ("decoder", "encoder")]


def value(name, *sizes, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, sizes)


def weight(name, *sizes, seed):
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=sizes).astype(np.float32), name)


def save(path, nodes, inputs, outputs, weights):
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@pytest.fixture
def parts(tmp_path):
    """A decoder without past, and the same with past: their weights have other names, two names mean other things."""
    ids, hidden = value("input_ids", "batch", "sequence", kind=TensorProto.INT64), ("batch", "encoder_sequence", WIDTH)
    logits, cross = value("logits", "batch", "sequence", WIDTH), ("batch", 1, "encoder_sequence", WIDTH)
    axes, axis = (numpy_helper.from_array(np.array([number]), name) for number, name in ((1, "one"), (2, "two")))
    first, step = tmp_path / "decoder_model.onnx", tmp_path / "decoder_with_past_model.onnx"
    save(
        first,
        [
            helper.make_node("Gather", ["words", "input_ids"], ["embedded"]),
            helper.make_node("MatMul", ["embedded", "head"], ["logits"]),
            helper.make_node("Unsqueeze", ["embedded", "one"], ["present.0.decoder.key"]),
            helper.make_node("MatMul", ["encoder_hidden_states", "cross"], ["keys"]),
            helper.make_node("Unsqueeze", ["keys", "one"], ["present.0.encoder.key"]),
        ],
        [ids, value("encoder_hidden_states", *hidden)],
        [logits, value("present.0.decoder.key", "batch", 1, "sequence", WIDTH), value("present.0.encoder.key", *cross)],
        [weight("words", WORDS, WIDTH, seed=0), weight("head", WIDTH, WIDTH, seed=1),
         weight("cross", WIDTH, WIDTH, seed=2), axes],
    )  # fmt: skip
    save(
        step,
        [
            helper.make_node("Gather", ["table", "input_ids"], ["head"]),
            helper.make_node("MatMul", ["head", "cross"], ["answers"]),
            helper.make_node("Unsqueeze", ["head", "one"], ["new"]),
            helper.make_node("Concat", ["past_key_values.0.decoder.key", "new"], ["present.0.decoder.key"], axis=2),
            helper.make_node("ReduceSum", ["past_key_values.0.encoder.key", "two"], ["seen"], keepdims=0),
            helper.make_node("Add", ["answers", "seen"], ["logits"]),
        ],
        [ids, value("past_key_values.0.decoder.key", "batch", 1, "past_sequence", WIDTH),
         value("past_key_values.0.encoder.key", *cross)],
        [logits, value("present.0.decoder.key", "batch", 1, "total_sequence", WIDTH)],
        [weight("table", WORDS, WIDTH, seed=0), weight("cross", WIDTH, WIDTH, seed=1), axes, axis],
    )  # fmt: skip
    return first, step


def run(path, values):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    return dict(zip(outputs, session.run(None, {name: values[name] for name in names}), strict=True))


def numbers(*sizes, seed=3):
    return np.random.default_rng(seed).normal(size=sizes).astype(np.float32)


def inputs(batch=2, past=4, source=5):
    return {
        "input_ids": np.arange(batch * 3).reshape(batch, 3),
        "encoder_hidden_states": numbers(batch, source, WIDTH),
        "past_key_values.0.decoder.key": numbers(batch, 1, past, WIDTH),
        "past_key_values.0.encoder.key": numbers(batch, 1, source, WIDTH),
    }


@pytest.mark.parametrize("largest", [0, 2**31], ids=["weights in a file of their own", "one file"])
def test_each_branch_is_its_decoder(parts, tmp_path, largest):
    made = tmp_path / "made"
    made.mkdir()
    merge_decoders(parts, made / "decoder_model_merged.onnx", largest)
    path = shutil.move(made, tmp_path / "moved") / "decoder_model_merged.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    assert (path.with_name(f"{path.name}.data")).exists() == (largest == 0)
    for batch, past, source in ((2, 4, 5), (1, 1, 9)):
        values = inputs(batch, past, source)
        later = run(path, {**values, "use_cache_branch": np.array([True])})
        assert later.pop("present.0.encoder.key").shape == (0, 1, 1, WIDTH)
        for name, expected in run(parts[1], values).items():
            np.testing.assert_allclose(later[name], expected, rtol=1e-5, atol=1e-5)
        # Sizes of an empty past do not matter.
        for sizes in ((batch, 1, 0, WIDTH), (1, 1, 0, 7), (0, 1, 0, 0)):
            empty = {f"past_key_values.{name}": numbers(*sizes) for name in KEYS}
            now = run(path, {**values, **empty, "use_cache_branch": np.array([False])})
            for name, expected in run(parts[0], values).items():
                np.testing.assert_allclose(now[name], expected, rtol=1e-5, atol=1e-5)


def test_weights_are_stored_once(parts, tmp_path):
    path = tmp_path / "decoder_model_merged.onnx"
    merge_decoders(parts, path, 2**31)
    graph = onnx.load(path).graph
    assert sorted(tuple(weight.dims) for weight in graph.initializer) == [
        (WIDTH, WIDTH),
        (WIDTH, WIDTH),
        (WORDS, WIDTH),
    ]
    (choice,) = graph.node
    # Numbers of axes, and the sizes of an empty output, stay where they are read.
    branches = {part.name: [list(weight.dims) for weight in part.g.initializer] for part in choice.attribute}
    assert branches == {"else_branch": [[1]], "then_branch": [[1], [1], [4]]}
    assert path.stat().st_size < 1.2 * parts[0].stat().st_size
    assert [each.name for each in graph.input] == [*list(inputs())[:2], *list(inputs())[2:], "use_cache_branch"]
    assert [each.name for each in graph.output] == ["logits", *(f"present.{name}" for name in KEYS)]
    # What holds with past and without.
    assert graph.output[1].type.tensor_type.shape.dim[2].dim_param == "total_sequence"


def test_a_session_chooses_the_branch(parts, tmp_path):
    path = tmp_path / "decoder_model_merged.onnx"
    merge_decoders(parts, path, 2**31)
    values = {name: torch.from_numpy(each) for name, each in inputs().items()}
    session = Session(path)
    assert session.run(values)["present.0.decoder.key"].shape == (2, 1, 7, WIDTH)
    begun = session.run({name: each for name, each in values.items() if not name.startswith("past")})
    assert begun["present.0.decoder.key"].shape == (2, 1, 3, WIDTH)


def test_branches_round_as_float16_does(tmp_path):
    factor = numpy_helper.from_array(np.array([256.0], np.float16), "factor")
    paths = [tmp_path / "first.onnx", tmp_path / "step.onnx"]
    for path in paths:
        save(
            path,
            [
                helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
                helper.make_node("Mul", ["half", "factor"], ["product"]),
                helper.make_node("Div", ["product", "factor"], ["back"]),
                helper.make_node("Cast", ["back"], ["y"], to=TensorProto.FLOAT),
            ],
            [value("x", "batch")],
            [value("y", "batch")],
            [factor],
        )
    merge_decoders(paths, tmp_path / "merged.onnx", 2**31)
    session = HalfSession(tmp_path / "merged.onnx")
    for past in (False, True):
        given = session.run({"x": torch.tensor([1.0, 300.0]), "use_cache_branch": torch.tensor([past])})["y"]
        # The second overflows in between.
        assert given.tolist() == [1.0, float("inf")]
