"""Classifiers with an encoder and a decoder, and one of the two alone, from a folder of data to a card that runs."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from command import compress
from tiny_text import config_of, save_sentences, sentences, tokenizer
from tokenizers import processors

import compressor
from compressor.errors import FusionWarning

QUICK = ("--width", "0.5", "--effort", "fast", "--samples", 24, "--steps", 2, "--batch-size", 8, "--no-latency")
CLASSES = {0: "0", 1: "1"}
#: {class: (kind of config, file that is exported, whether it is scored)}.
MODELS = {
    "BartForSequenceClassification": ("bart", None, True),
    "T5ForSequenceClassification": ("t5", None, True),
    "T5EncoderModel": ("t5", "model.onnx", False),
}


def save_teachers(root, name):
    kind = MODELS[name][0]
    config = config_of(kind)
    config.architectures = [name]
    if name.endswith("SequenceClassification"):
        config.id2label, config.label2id = CLASSES, {label: number for number, label in CLASSES.items()}
    ended = tokenizer(framed=False, length=32)
    ended.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", ended.eos_token_id)]
    )
    for seed in range(2):
        torch.manual_seed(seed)
        getattr(transformers, name)(config).eval().save_pretrained(root / str(seed))
        ended.save_pretrained(root / str(seed))
    return [root / str(seed) for seed in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_from_two_teachers_to_a_card_that_runs(name, tmp_path, capsys):
    _, file, scored = MODELS[name]
    teachers = save_teachers(tmp_path, name)
    data = save_sentences(tmp_path / "data", train=32)
    student = tmp_path / "student"
    code, _, err = compress(capsys, "fuse", *teachers, "--data", data, *QUICK, "-o", student)
    assert code == 0, err
    report = json.loads((student / "report.json").read_text(encoding="utf-8"))
    assert (report["table"][-1].get("kl") is not None) == scored
    if file is not None:
        assert (student / "onnx" / file).is_file() and report["onnx"]["largest_relative_difference"] < 1e-4
    card = (student / "README.md").read_text(encoding="utf-8")
    program = card.partition("## Use\n\n```python\n")[2].partition("```")[0]
    loaded: dict = {}
    exec(program.replace("path/to/this/folder", str(student)), loaded)  # the card's lines
    model = loaded["model"]
    assert model.num_parameters() < getattr(transformers, name).from_pretrained(teachers[0]).num_parameters()
    inputs = loaded["processor"](sentences(3), padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        output = model(**inputs)
    assert torch.isfinite(output[0]).all()
    if scored:
        code, _, err = compress(capsys, "evaluate", student, teachers[0], "--data", data)
        assert code == 0, err


def test_a_decoder_alone_becomes_narrower_without_what_no_input_reaches(tmp_path, capsys):
    """A BartForCausalLM has the weights of a cross-attention that its class never runs."""
    config = config_of("bart")
    config.architectures = ["BartForCausalLM"]
    teachers = []
    for seed in range(2):
        torch.manual_seed(seed)
        teachers.append(transformers.BartForCausalLM(config).eval())
    draw = torch.Generator().manual_seed(0)
    batches = [{"input_ids": torch.randint(5, config.vocab_size, (8, 12), generator=draw)} for _ in range(6)]
    with pytest.warns(FusionWarning, match=r"no input of BartForCausalLM reaches .*encoder_attn.* and \d+ more"):
        student = compressor.fuse(teachers, 0.5, batches, effort="fast")
    assert student.model.config.d_model == config.d_model // 2
    idle = [value for name, value in student.model.named_parameters() if name.endswith("encoder_attn.k_proj.weight")]
    assert idle and not any(value.any() for value in idle)
