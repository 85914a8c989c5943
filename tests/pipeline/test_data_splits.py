"""Which samples calibrate, train and judge."""

from __future__ import annotations

import pytest
import torch
from tiny import save_images

from compressor.distillation.lr_search import split_validation
from compressor.models.load import load_teacher
from compressor.pipeline.data_splits import open_data
from compressor.recipe import Recipe


@pytest.mark.parametrize("options", [{"learning_rate": "search"}, {"validate_every": 2}])
def test_no_fusion_sees_what_the_finetune_is_judged_by(tmp_path, vit_a, vit_b, options):
    """Though more calibration samples are asked for than there are."""
    teacher, data = load_teacher(str(vit_a)), save_images(tmp_path / "data", per_class=16)
    recipe = Recipe(
        teachers=[str(vit_a), str(vit_b)], data={"source": str(data)}, output=str(tmp_path / "s"), seed=3,
        calibration={"samples": 1000}, finetune={**options, "validation": 0.25},
    )  # fmt: skip
    opened = open_data(recipe, teacher.processor, teacher.spec)
    assert opened.train is not None
    train, judged = split_validation(opened.train, recipe.finetune, recipe.seed)
    seen = torch.cat([batch["pixel_values"] for batch in opened.calibration]).flatten(1)
    apart = [bool((seen == sample["pixel_values"].flatten()).all(1).any()) for sample in judged]
    assert len(judged) >= 8 and len(seen) == len(train) and not any(apart)
    off = recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update={"enabled": False})})
    assert sum(
        len(batch["pixel_values"]) for batch in open_data(off, teacher.processor, teacher.spec).calibration
    ) == len(opened.train)
