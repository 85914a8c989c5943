"""Models of unlike inputs and precisions, or whose layers a list of names counts, are certified."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from compressor.anatomy import CERTIFICATE_TOLERANCE, inspect_config
from compressor.anatomy.certificate import random_model
from compressor.anatomy.layer_fields import with_layers
from compressor.anatomy.passes import run_pass
from compressor.anatomy.reduction import _short_fields
from compressor.anatomy.tracer import trace_dims
from compressor.errors import UserError
from compressor.fusion.shape.spec import student_specs
from compressor.models.inputs import dummy_inputs

_TEXT = {"vocab_size": 60, "num_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TOWER = {"hidden_size": 32, "num_heads": 4, "depth": 2, "patch_size": 8, "image_size": 32, "intermediate_size": 48}
_HEADS = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48, "head_dim": 8}
#: {model type: (class, fields)}.
UNLIKE = {
    # Masks of the least double, which is infinite in single precision.
    "xglm": ("XGLMForCausalLM", {**_TEXT, "d_model": 32, "attention_heads": 4, "ffn_dim": 48}),
    "timesfm": ("TimesFmModel", {**_HEADS, "patch_length": 4, "context_length": 16, "horizon_length": 4}),
    # Patches in one list; positions are read from a table by a grid.
    "glm4v_vision": ("Glm4vVisionModel", {**_TOWER, "out_hidden_size": 32}),
    "gemma4_vision": ("Gemma4VisionModel", {**_HEADS, "num_key_value_heads": 4, "patch_size": 8}),
    "xmod": ("XmodForMaskedLM", {**_HEADS, "vocab_size": 60, "max_position_embeddings": 40, "languages": ["a", "b"]}),
}  # fmt: skip


def config_of(model_type, architecture, fields):
    config = AutoConfig.for_model(model_type, **fields)
    config.architectures = [architecture]
    return config


_SLOW = ("xglm", "gemma4_vision", "xmod")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k in _SLOW else k for k in UNLIKE])
def test_unlike_models_are_certified(kind):
    anatomy = inspect_config(config_of(kind, *UNLIKE[kind]))
    assert anatomy.error <= CERTIFICATE_TOLERANCE and anatomy.proven == 1
    # XGLM's positions are sines.
    assert ("hidden" in anatomy.fields.values()) is (kind != "xglm")


def test_a_pass_in_double_precision_gives_numbers():
    model = random_model(config_of("xglm", *UNLIKE["xglm"]))
    inputs = dummy_inputs(model.config, 2, 7, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="overflow"):
        model(**inputs)
    assert run_pass(model, inputs)["logits"].dtype is torch.float64
    assert run_pass(model.float(), inputs)["logits"].dtype is torch.float32
    assert torch.get_default_dtype() is torch.float32


def hybrid():
    sizes = {**_HEADS, "num_key_value_heads": 2, "vocab_size": 60, "mamba_num_heads": 4, "mamba_head_dim": 16}
    sizes |= {"ssm_state_size": 8, "n_groups": 1, "layers_block_type": ["linear_attention", "full_attention", "mlp"]}
    return config_of("nemotron_h", "NemotronHForCausalLM", sizes)


@pytest.mark.slow
def test_layers_that_a_list_of_kinds_counts_are_certified_at_their_depth():
    config = hybrid()
    anatomy = inspect_config(config)
    (stack,) = anatomy.stacks
    assert len(stack.layers) == 3 and stack.fields == ()
    assert "hidden" in anatomy.fields.values()
    with pytest.raises(UserError, match="no field of this nemotron_h config counts its layers"):
        student_specs(config, anatomy, 0.5, depth=2)


def test_layers_beyond_the_last_one_are_none():
    config = config_of(
        "mllama_text_model", "MllamaForCausalLM", {"num_hidden_layers": 3, "cross_attention_layers": [1, 8]}
    )
    assert with_layers(config, ["num_hidden_layers"], [0, 1]).cross_attention_layers == [1]
    assert with_layers(config, ["num_hidden_layers"], [0, 2]).cross_attention_layers == []


@pytest.mark.parametrize(("rotating", "sections"), [(1.0, [8, 4, 4]), (0.5, [4, 2, 2])])
def test_sections_of_rotary_channels_fit_the_part_that_rotates(rotating, sections):
    rotary = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": rotating, "mrope_section": sections}
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "rope_parameters": rotary}
    config = config_of("glm4v_moe_text", "Glm4vMoeTextModel", sizes)
    short = _short_fields(config, "", {}, 8, [])["rope_parameters"]["mrope_section"]
    assert sum(short) == 4 * rotating


class Sampled(nn.Module):
    """Channels of a map, sloped, read at some places, and mapped."""

    def __init__(self):
        super().__init__()
        self.config = AutoConfig.for_model("bert")
        self.writer, self.slope, self.reader = nn.Linear(3, 6), nn.PReLU(6), nn.Linear(6, 2)

    def forward(self, values, **_):
        maps = self.slope(self.writer(values).movedim(-1, 1))
        grid = torch.zeros(len(maps), 1, 2, 2) + torch.tensor([0.1, 0.3])
        sampled = nn.functional.grid_sample(maps, grid, align_corners=False)
        return {"answers": self.reader(sampled.movedim(1, -1))}


def test_channels_are_followed_through_sampling_at_places_and_slopes():
    traced = trace_dims(Sampled(), [{"values": torch.randn(2, 4, 4, 3)}], head=True)
    written, slope, read = (traced.parameters[name] for name in ("writer.weight", "slope.weight", "reader.weight"))
    assert written[0].root is slope[0].root is read[1].root and not read[1].all_pinned
    assert not traced.unknown
