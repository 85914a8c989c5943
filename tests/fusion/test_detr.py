"""Detectors with a backbone of convolutions, whose queries and keys read positions and whose values do not."""

from __future__ import annotations

import pytest
from tiny_detr import detr_config, detr_processor

from compressor.anatomy import LinearOp, inspect_config
from compressor.bench.size import count_macs
from compressor.errors import UserError
from compressor.fusion.plan import BuildPlan, LinearStage
from compressor.fusion.self_test import check_recovery
from compressor.models.configs.reading import model_class
from compressor.models.folder.save import save_student
from compressor.models.load import load_teacher
from compressor.pipeline.teachers import plan_target


@pytest.fixture(scope="module")
def anatomy():
    return inspect_config(detr_config())


def test_stages_of_a_backbone_of_convolutions_are_no_layers_to_fit(anatomy):
    assert [stack.residual for stack in anatomy.stacks] == ["model.encoder.residual", "model.decoder.residual"]


def test_modules_are_fitted_together_only_where_they_read_the_same(anatomy):
    layer = "model.encoder.layers.0"
    sources = {op.module: op.source for op in anatomy.flow if isinstance(op, LinearOp)}
    assert sources[f"{layer}.self_attn.k_proj"] == f"{layer}.self_attn.q_proj"
    assert sources[f"{layer}.self_attn.v_proj"] is None
    stages = [stage.ops for stage in BuildPlan(anatomy).layer_plans[layer].stages if isinstance(stage, LinearStage)]
    names = [[op.module.rpartition(".")[2] for op in ops] for ops in stages]
    assert names == [["q_proj", "k_proj"], ["v_proj"], ["fc1"]]


def test_a_teacher_fused_by_itself_at_width_one_answers_as_before():
    # Values that were fitted to what queries read were off by 1.6e-4.
    assert check_recovery(detr_config()) < 1e-5


def test_its_places_keep_the_width_and_a_line_says_what_to_ask_for():
    with pytest.raises(UserError, match=r"cannot become narrower: .* fixed places .* \(--width 1 --ffn 0.5\)"):
        plan_target([detr_config()], 0.5)


def test_a_backbone_without_attention_is_loaded_and_counted(tmp_path):
    config = detr_config()
    save_student(tmp_path, model_class(config)(config).eval(), detr_processor())
    model = load_teacher(str(tmp_path)).model
    assert model.config._attn_implementation == "sdpa" and count_macs(model) > 1e6
