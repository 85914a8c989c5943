"""Heads of tasks without a score are fused and exported by all that they answer."""

from __future__ import annotations

import pytest
import torch
from transformers import ViTConfig, YolosConfig

from compressor.export.onnx import write_onnx
from compressor.fusion import fuse_models
from compressor.models.configs.reading import model_class
from compressor.models.inputs import dummy_inputs

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "patch_size": 4}
CASES = {
    "masked image": (ViTConfig, "ViTForMaskedImageModeling", {"image_size": 16, "encoder_stride": 4}),
    "detection": (YolosConfig, "YolosForObjectDetection", {"image_size": [16, 16], "num_detection_tokens": 5}),
}


@pytest.mark.parametrize(
    ("case", "outputs"), [("masked image", ("reconstruction",)), ("detection", ("logits", "pred_boxes"))]
)
def test_all_answers_are_kept_and_exported(case, outputs, tmp_path):
    kind, architecture, fields = CASES[case]
    config = kind(architectures=[architecture], **SIZES, **fields)
    torch.manual_seed(0)
    model = model_class(config)(config).eval()
    same = fuse_models([("one", model)], 1.0, [dummy_inputs(config, 4)]).model
    inputs = dummy_inputs(config, 2, seed=1)
    with torch.no_grad():
        for name in outputs:
            torch.testing.assert_close(same(**inputs)[name], model(**inputs)[name], atol=1e-4, rtol=1e-3)
    student = fuse_models([("one", model)], 0.5, None).model
    assert write_onnx(student, tmp_path).files[0].outputs == outputs
