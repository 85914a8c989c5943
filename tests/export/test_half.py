"""Float16 files hold where float16 is real: checked by onnx's own evaluator, which computes in float16."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from test_export import TEXT, built, mistral
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from compressor.export.half import write_float16
from compressor.export.half_plan import LARGEST_HALF, ROOM, SMALLEST_HALF, HalfPlan, plan_half
from compressor.export.half_ranges import RangeSession
from compressor.export.runtime import Session
from compressor.export.write import write_formats
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import as_pair
from compressor.pipeline.deliver import format_report
from compressor.recipe import ExportOptions
from compressor.report.describe_formats import describe_half, describe_parity


def scaled(factor):
    """A BERT whose hidden layer is that many times as large, and whose answers are the same."""
    model = built(BertForSequenceClassification, BertConfig(initializer_range=0.3, hidden_act="relu", **TEXT))
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.intermediate.dense.weight *= factor
        layer.intermediate.dense.bias *= factor
        layer.output.dense.weight /= factor
    return model


def texts(model, count, seed):
    return as_pair(model.config, dummy_inputs(model.config, count, 12, seed=seed))


def in_float16(path, inputs):
    """Logits of a file, computed in float16."""
    names = [value.name for value in onnx.load(path).graph.input]
    with np.errstate(all="ignore"):
        outputs = ReferenceEvaluator(str(path)).run(None, {name: inputs[name].numpy() for name in names})
    return torch.from_numpy(outputs[0])


@pytest.mark.parametrize(
    "factor",
    [pytest.param(1.5e6, id="beyond the range"), pytest.param(1e-7, id="below its digits", marks=pytest.mark.slow)],
)
def test_answers_hold_where_float16_is_real(factor, tmp_path):
    model = scaled(factor)
    samples = [texts(model, 4, seed) for seed in (0, 1)]
    made = write_formats(["onnx-fp16"], model, tmp_path, ExportOptions(), calibration=samples, batch_sizes=(2,))
    report = made["onnx-fp16"].report
    inputs = texts(model, 3, 7)
    with torch.no_grad():
        expected = model(**inputs).logits
    given = in_float16(report.path, inputs)
    assert torch.isfinite(given).all()
    assert float((given - expected).norm() / expected.norm()) < 0.01
    assert report.parity.error < 0.01
    (file,) = report.files
    assert file.half.samples == 8 and file.half.largest_in_half * ROOM <= LARGEST_HALF
    assert (file.half.largest > 1e6) == (factor > 1)
    # Both products around the hidden layer, and no others.
    assert file.half.kept["MatMul"] == 2 and file.half.kept["Relu"] == 1
    entry = format_report("onnx-fp16", report)
    assert entry["float16"]["room"] == ROOM and entry["float16"]["operations_in_float32"]["MatMul"] == 2
    line = describe_parity("onnx-fp16", entry)
    assert "rounded to float16" in line and "on 8 samples and random inputs" in line and "2 MatMul" in line


def test_without_samples_random_inputs_are_named():
    half = {"limit": LARGEST_HALF, "room": ROOM, "samples": 0, "largest_value": 9.0, "largest_value_in_float16": 9.0}
    line = describe_half({**half, "operations": 45, "operations_in_float32": {}})
    assert line.endswith("on random inputs, without samples; 0 of 45 operations stay in float32")


def graph(path, nodes, weights):
    """A file from x [2, 4] to y."""
    shapes = {"x": [2, 4], "y": [None, None]}
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in shapes.items()]
    tensors = [onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in weights.items()]
    whole = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    onnx.save(onnx.helper.make_model(whole, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)


def planned(path, nodes, weights, scale=1.0) -> HalfPlan:
    graph(path, [onnx.helper.make_node(op, inputs, [output], **more) for op, inputs, output, more in nodes], weights)
    session = RangeSession(path)
    session.run({"x": scale * torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.5, 0.25, 0.0, 1.0]])})
    return plan_half(path, session.ranges, 2)


@pytest.mark.parametrize(
    ("nodes", "weights", "scale", "kept"),
    [
        # A result with too little room, though within the limit.
        ([("Mul", ["x", "w"], "a", {}), ("Relu", ["a"], "y", {})], {"w": 1e4}, 1.0, {"Mul": 1, "Relu": 1}),
        ([("Mul", ["x", "w"], "a", {}), ("Relu", ["a"], "y", {})], {"w": 1e3}, 1.0, {}),
        # A weight beyond the range, with results within it.
        ([("Div", ["x", "w"], "y", {})], {"w": 1e5}, 1e5, {"Div": 1}),
        # A sum that a kernel may keep in float16, of a mean within the range.
        ([("Mul", ["x", "x"], "a", {}), ("ReduceMean", ["a"], "y", {})], {}, 40.0, {"Mul": 1, "ReduceMean": 1}),
        # Small values that are only added are of no account; those that something divides by are.
        ([("Add", ["x", "w"], "y", {})], {"w": 1e-7}, 1.0, {}),
        ([("Mul", ["x", "w"], "a", {}), ("Add", ["x", "a"], "y", {})], {"w": 1e-7}, 1.0, {"Mul": 1}),
        (
            [("Mul", ["x", "x"], "a", {}), ("ReduceMean", ["a"], "b", {}), ("Sqrt", ["b"], "c", {}),
             ("Div", ["x", "c"], "y", {})],
            {}, 1e-3, {"Mul": 1, "ReduceMean": 1, "Sqrt": 1},
        ),
        # Angles, however small their range.
        ([("Mul", ["x", "w"], "a", {}), ("Sin", ["a"], "y", {})], {"w": 100.0}, 1.0, {"Mul": 1, "Sin": 1}),
    ],
)  # fmt: skip
def test_operations_that_stay_in_float32(nodes, weights, scale, kept, tmp_path):
    assert planned(tmp_path / "g.onnx", nodes, weights, scale).kept == kept
    assert np.finfo(np.float16).smallest_normal == SMALLEST_HALF and np.finfo(np.float16).max == LARGEST_HALF


def test_infinite_masks_are_no_overflow(tmp_path):
    nodes = [("Greater", ["x", "w"], "m", {}), ("Where", ["m", "x", "n"], "a", {}), ("Softmax", ["a"], "y", {})]
    plan = planned(tmp_path / "g.onnx", nodes, {"w": 0.0, "n": -np.inf})
    assert plan.kept == {} and plan.largest == 4.0


def test_values_that_several_float32_operations_read(tmp_path):
    nodes = [("Relu", ["x"], "a", {}), ("Div", ["a", "v"], "b", {}), ("Div", ["a", "w"], "c", {})]
    source, path = tmp_path / "g.onnx", tmp_path / "half.onnx"
    plan = planned(source, [*nodes, ("Sub", ["b", "c"], "y", {})], {"v": 1e5, "w": 2e5}, 1e5)
    assert plan.kept == {"Relu": 1, "Div": 2}
    write_float16(source, path, HalfPlan(frozenset(name for name in plan.blocked if "Div" in name), 4, {}, 0, 0, 0))
    x = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.5, 0.25, 0.0, 1.0]])
    expected = Session(source).run({"x": x})["y"]
    assert float((Session(path).run({"x": x})["y"] - expected).norm() / expected.norm()) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["windows", "rotary"])
def test_language_models_in_float16(kind, tmp_path):
    config = LlamaConfig(num_key_value_heads=1, initializer_range=0.3, max_position_embeddings=600, **TEXT)
    model = mistral() if kind == "windows" else built(LlamaForCausalLM, config)
    options = ExportOptions(cache=False)
    made = write_formats(["onnx-fp16"], model, tmp_path, options, batch_sizes=(2,))["onnx-fp16"]
    assert [file.path.name for file in made.report.files] == ["model_fp16.onnx"]
    assert made.report.parity.error < 0.01
    inputs = dummy_inputs(model.config, 1, 500 if kind == "rotary" else 12, seed=3)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**inputs).logits
    given = in_float16(made.report.path, inputs)
    assert float((given - expected).norm() / expected.norm()) < 0.02
