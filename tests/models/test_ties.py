"""Tied weights are what the stored tensors are, whatever the config says; tied and untied teachers fit together."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import compressor
from compressor.anatomy.hooks import logits_of
from compressor.bench.size import count_parameters
from compressor.errors import UserError
from compressor.models.inputs import dummy_inputs
from compressor.models.load import load_teacher
from compressor.models.meta import meta_model
from compressor.models.resolve import load_config
from compressor.pipeline.plan import plan_student
from compressor.testing.tiny_configs import tiny_config

#: Family, class, and the weight that is untied.
HEADS = [
    ("llama", "LlamaForCausalLM", "lm_head.weight"),
    ("bert", "BertForMaskedLM", "cls.predictions.decoder.weight"),
    ("bart", "BartForConditionalGeneration", "lm_head.weight"),
    ("t5", "T5ForConditionalGeneration", "lm_head.weight"),
]
OTHERS = [
    ("gpt2", "GPT2LMHeadModel", "lm_head.weight"),
    ("gemma2", "Gemma2ForCausalLM", "lm_head.weight"),
    ("opt", "OPTForCausalLM", "lm_head.weight"),
    ("bloom", "BloomForCausalLM", "lm_head.weight"),
    ("whisper", "WhisperForConditionalGeneration", "proj_out.weight"),
    ("bert", "BertForMaskedLM", "cls.predictions.decoder.bias"),
    ("roberta", "RobertaForMaskedLM", "lm_head.decoder.weight"),
    ("modernbert", "ModernBertForMaskedLM", "decoder.weight"),
    ("distilbert", "DistilBertForMaskedLM", "vocab_projector.weight"),
    ("albert", "AlbertForMaskedLM", "predictions.decoder.weight"),
    ("electra", "ElectraForMaskedLM", "generator_lm_head.weight"),
    ("deberta-v2", "DebertaV2ForMaskedLM", "cls.predictions.decoder.weight"),
    ("bart", "BartForConditionalGeneration", "model.encoder.embed_tokens.weight"),
    ("t5", "T5ForConditionalGeneration", "decoder.embed_tokens.weight"),
]


def slow(cases):
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def save_tied(folder, family, architecture, seed=0):
    """A tied model of random weights."""
    config = tiny_config(family, tie_word_embeddings=True)
    config.architectures = [architecture]
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def edit(folder, weights=(), drop=(), **fields):
    """Change stored weights and fields of the config, as other programs write them."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **dict(weights)}
    save_file({name: value for name, value in tensors.items() if name not in drop}, path, {"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **fields}))


def save_lying(folder, family, architecture, name, seed=0):
    """A model whose config says tied, beside a stored weight that is not."""
    model = save_tied(folder, family, architecture, seed)
    edit(folder, {name: model.get_parameter(name).detach() + 0.3 * torch.randn(model.get_parameter(name).shape)})
    return model


@torch.no_grad()
def answers(model):
    return logits_of(model, dummy_inputs(model.config, 4, 12, seed=7))


def closeness(model, other):
    wanted = answers(other)
    return float((answers(model) - wanted).abs().max() / wanted.abs().max())


def names(model):
    return {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(("family", "architecture", "name"), [HEADS[0], *slow([*HEADS[1:], *OTHERS])])
def test_a_weight_that_is_stored_apart_is_not_tied(family, architecture, name, tmp_path):
    save_lying(tmp_path / "lying", family, architecture, name)
    plain = getattr(transformers, architecture).from_pretrained(tmp_path / "lying")
    teacher = load_teacher(str(tmp_path / "lying"))
    assert closeness(teacher.model, plain) < 1e-5
    assert names(meta_model(teacher.config)) == names(teacher.model), "its config builds another model"
    assert name in names(teacher.model)
    assert len(teacher.notes) == 1 and "tie_word_embeddings" in teacher.notes[0] and name in teacher.notes[0]
    planned = plan_student([str(tmp_path / "lying")], 1.0)
    assert planned["notes"] == list(teacher.notes)
    student = compressor.fuse([str(tmp_path / "lying")], 1.0).model
    # Without data the norm before a head that stays tied gets one scale.
    assert "embed_tokens" in name or closeness(student, plain) < 1e-4
    assert count_parameters(student) == planned["student"]["parameters"]


@pytest.mark.parametrize(("family", "architecture", "name"), [*HEADS, *slow(OTHERS)])
@pytest.mark.parametrize("stored", ["one", pytest.param("both", marks=pytest.mark.slow)])
def test_a_weight_that_is_the_same_is_tied(family, architecture, name, stored, tmp_path):
    folder = tmp_path / "same"
    model = save_tied(folder, family, architecture)
    copies = {} if stored == "one" else {n: model.get_parameter(n).detach().clone() for n in [name]}
    edit(folder, copies, tie_word_embeddings=False)
    teacher = load_teacher(str(folder))
    assert closeness(teacher.model, model) < 1e-5
    assert names(meta_model(teacher.config)) == names(teacher.model) == names(model)
    # The class of T5 says true whatever the file says.
    assert family == "t5" or "tie_word_embeddings is false" in " ".join(teacher.notes)
    notes = []
    assert names(meta_model(load_config(str(folder), notes))) == names(model) and notes == list(teacher.notes)


def test_a_weight_without_any_partner_is_missing(tmp_path):
    save_tied(tmp_path / "broken", "llama", "LlamaForCausalLM")
    edit(tmp_path / "broken", {"extra": torch.zeros(1)}, drop=["model.embed_tokens.weight"], tie_word_embeddings=False)
    with pytest.raises(UserError, match="does not match its weights: missing"):
        load_teacher(str(tmp_path / "broken"))


@pytest.mark.parametrize(("family", "architecture", "name"), [HEADS[0], *slow([*HEADS[1:], *OTHERS])])
def test_tied_and_untied_teachers_fit_together(family, architecture, name, tmp_path):
    save_tied(tmp_path / "tied", family, architecture)
    save_lying(tmp_path / "untied", family, architecture, name, seed=1)
    both = [str(tmp_path / "tied"), str(tmp_path / "untied")]
    # One shape: pilots may prefer another than the first.
    planned = plan_student(both, 0.5, narrowing="fewer-heads")
    student = compressor.fuse(both, 0.5, narrowing="fewer-heads").model
    assert count_parameters(student) == planned["student"]["parameters"]
    assert name in names(student)
    student.save_pretrained(tmp_path / "student")
    plain = getattr(transformers, architecture).from_pretrained(tmp_path / "student")
    assert closeness(plain, student) < 1e-5
    again = load_teacher(str(tmp_path / "student"))
    assert again.notes == () and names(again.model) == names(student)


def test_models_in_memory_are_what_they_are_and_stay_so(tmp_path):
    save_lying(tmp_path / "lying", "llama", "LlamaForCausalLM", "lm_head.weight")
    untied = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "lying")
    tied = save_tied(tmp_path / "tied", "llama", "LlamaForCausalLM", seed=1)
    student = compressor.fuse([tied, untied], 0.5).model
    assert "lm_head.weight" in names(student) and not student.config.tie_word_embeddings
    assert "lm_head.weight" not in names(tied) and tied.config.tie_word_embeddings
    assert "lm_head.weight" in names(untied) and untied.config.tie_word_embeddings


def test_heads_that_are_scaled_with_the_tie_are_refused():
    from compressor.models.ties import common_ties

    configs = [
        transformers.AutoConfig.for_model(
            "switch_transformers",
            tie_word_embeddings=tied,
            architectures=["SwitchTransformersForConditionalGeneration"],
        )
        for tied in (True, False)
    ]
    with pytest.raises(UserError, match="scales its head"):
        common_ties(configs)
