"""A file that was traced for one length says so when samples have another."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from compressor.errors import ParityError
from compressor.export.runtime import Session


def test_samples_of_another_length_are_refused_with_a_remedy(tmp_path):
    sizes = ["batch", 128, 4]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in ("input_features", "logits")]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input_features"], ["logits"])], "frames", sides[:1], sides[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    session = Session(tmp_path / "model.onnx")
    assert session.run({"input_features": torch.ones(3, 128, 4)})["logits"].shape == (3, 128, 4)
    said = (
        "model.onnx takes input_features of batch×128×4 alone, and there are samples of 3×59×4: leave out the formats"
    )
    with pytest.raises(ParityError, match=said):
        session.run({"input_features": torch.ones(3, 59, 4)})
