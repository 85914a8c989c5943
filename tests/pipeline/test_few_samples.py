"""Too few calibration samples for the teachers' width are warned of."""

from __future__ import annotations

import json

import pytest
from command import compress


@pytest.fixture(autouse=True)
def _as_shipped(monkeypatch):
    from compressor.report import findings

    monkeypatch.setattr(findings, "ENOUGH_TOKENS", 16)


def warnings_of(capsys, tmp_path, *arguments):
    code, _, err = compress(
        capsys, "fuse", *arguments, "--no-finetune", "--no-onnx", "--no-latency", "-o", tmp_path / "student"
    )
    assert code == 0, err
    found = json.loads((tmp_path / "student" / "report.json").read_text())["warnings"]
    assert all(line in err for line in found)
    return [line for line in found if "few calibration samples" in line]


def test_one_sample_is_warned_of(capsys, tmp_path, vit_a, vit_b, image_folder):
    (line,) = warnings_of(capsys, tmp_path, vit_a, vit_b, "--data", image_folder, "--samples", "1")
    assert "1 of them have 4 tokens" in line and "32 wide want 512 or more" in line and "--samples" in line


@pytest.mark.parametrize(("batches", "warned"), [(31, True), (32, False)])
def test_the_line_is_sixteen_tokens_a_coordinate(vit_a, batches, warned):
    """A batch of four images of four patches has 16 tokens; 32 coordinates want 512."""
    import torch

    from compressor.models.resolve import load_config
    from compressor.pipeline.calibration_checks import scarcity

    images = [{"pixel_values": torch.zeros(4, 3, 16, 16)}] * batches
    assert bool(scarcity(images, [load_config(str(vit_a))])) is warned


def test_padding_is_no_token(bert):
    import torch

    from compressor.models.inputs import count_tokens
    from compressor.models.resolve import load_config

    ids, mask = torch.zeros(2, 5, dtype=torch.long), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    config = load_config(str(bert))
    assert count_tokens({"input_ids": ids, "attention_mask": mask}, config) == 8
    assert count_tokens({"input_ids": ids}, config) == 10
    assert count_tokens({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :2]}, config) == 4
