"""Text classifiers without a usable padding token: planned, fused and measured as each text alone is answered."""

from __future__ import annotations

import json

import pytest
from command import compress, tiny_recipe, write_recipe
from tiny_text import SIZES, VOCABULARY, save_sentences, tokenizer

NAMES = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
EOS = VOCABULARY.index("</s>")


def save_classifier(folder, kind, *, seed=0, config_pad=None, pad=False, ends=False, side="right", eos=EOS):
    """A decoder that classifies, saved with its tokenizer; `ends` closes each text with </s>."""
    import torch
    import transformers
    from tokenizers import processors

    fields = {**SIZES, "max_position_embeddings": 32, "num_key_value_heads": 2}
    if kind == "gpt2":
        fields = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=len(VOCABULARY), bos_token_id=None, eos_token_id=eos, pad_token_id=config_pad,
        initializer_range=0.3, **fields, **NAMES,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    made = tokenizer(framed=False, pad=False)
    if pad:
        made.pad_token = "</s>"
    if ends:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
        )
    made.padding_side = side
    made.save_pretrained(folder)
    return folder


def answers_alone(folder, texts):
    """Class of each text by itself, by transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    made = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([made(text)["input_ids"]])).logits[0] for text in texts]
    return [int(row.argmax()) for row in logits]


CASES = {
    "no padding": ("gpt2", {}),
    "rotary": ("llama", {}),
    "the end pads": ("gpt2", {"pad": True}),
    "texts end with it": ("gpt2", {"pad": True, "ends": True}),
    "config too, texts end with it": ("gpt2", {"config_pad": EOS, "pad": True, "ends": True}),
    "on the left": ("gpt2", {"pad": True, "side": "left"}),
    "beyond the vocabulary": ("gpt2", {"config_pad": 4711}),
    "negative": ("llama", {"config_pad": -1}),
    "no end": ("gpt2", {"eos": None}),
    "several ends": ("llama", {"eos": [EOS, 2]}),
}


def case_params(cases, fast):
    """Parameters of a test; `make test` tries a few."""
    return [pytest.param(case, marks=() if case in fast else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("case", case_params(CASES, ("no padding", "texts end with it", "beyond the vocabulary")))
def test_padding_changes_no_answer(capsys, tmp_path, case):
    """Accuracy by what each text alone is answered is 100 %."""
    kind, options = CASES[case]
    folder = save_classifier(tmp_path / "t", kind, **options)
    save_sentences(tmp_path / "data", train=8, test=24)
    rows = [line.rsplit("\t", 1)[0] for line in (tmp_path / "data" / "test.tsv").read_text().splitlines()]
    answers = answers_alone(folder, rows)
    assert len(set(answers)) == 2
    lines = [f"{text}\t{label}" for text, label in zip(rows, answers, strict=True)]
    (tmp_path / "data" / "test.tsv").write_text("\n".join(lines) + "\n")
    code, out, err = compress(capsys, "evaluate", folder, "--data", tmp_path / "data", "--json")
    assert code == 0, err
    assert json.loads(out)["rows"][0]["accuracy"] == 1
    assert ("pads instead" in err) == (case in ("beyond the vocabulary", "negative"))


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in ("gpt2", "llama", "qwen2")])
def test_classifiers_without_padding_are_planned_and_fused(capsys, tmp_path, kind):
    folders = [save_classifier(tmp_path / name, kind, seed=seed) for seed, name in enumerate("ab")]
    for command in (("plan", *folders), ("inspect", folders[0])):
        code, _, err = compress(capsys, *command)
        assert code == 0, err
    save_sentences(tmp_path / "data")
    quick = tiny_recipe(folders, tmp_path / "data", tmp_path / "student", finetune={"enabled": False})
    recipe = write_recipe(tmp_path / "r.yaml", quick)
    code, _, err = compress(capsys, "run", recipe)
    assert code == 0, err
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    named = json.loads((tmp_path / "student" / "tokenizer_config.json").read_text())
    assert VOCABULARY[config["pad_token_id"]] == named["pad_token"]


def test_a_config_without_padding_is_certified():
    from transformers import GPT2Config

    from compressor import inspect

    config = GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=16, pad_token_id=None)
    config.architectures = ["GPT2ForSequenceClassification"]
    assert inspect(config).error < 1e-5
    assert config.pad_token_id is None


def test_padding_without_an_embedding_is_named(capsys, tmp_path):
    folder = save_classifier(tmp_path / "t", "llama")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": len(VOCABULARY)}))
    code, _, err = compress(capsys, "plan", folder)
    assert code == 2 and f"pad_token_id is {len(VOCABULARY)}, and the vocabulary has {len(VOCABULARY)} tokens" in err


def test_teachers_that_pad_unlike_are_refused(capsys, tmp_path):
    folders = [save_classifier(tmp_path / f"t{pad}", "gpt2", config_pad=pad) for pad in (0, 1)]
    code, _, err = compress(capsys, "plan", *folders)
    assert code == 2 and "token of padding (pad_token_id)" in err


@pytest.mark.parametrize(
    ("token", "special", "code"),
    [("zebra", False, 2), pytest.param("<extra>", True, 2, marks=pytest.mark.slow), ("<pad>", "pad", 0)],
)
def test_tokens_beyond_the_embedding_are_named(capsys, tmp_path, bert, token, special, code):
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(bert, tmp_path / "t")
    made = AutoTokenizer.from_pretrained(tmp_path / "t")
    if special == "pad":
        made.add_special_tokens({"pad_token": token})
    else:
        made.add_tokens([token], special_tokens=special)
    made.save_pretrained(tmp_path / "t")
    (tmp_path / "d").mkdir()
    for name in ("train", "test"):
        (tmp_path / "d" / f"{name}.tsv").write_text("good film\t1\nbad plot the film\t0\nthe plot\t0\n" * 2)
    for command in ("evaluate",) if code == 0 else ("evaluate", "fuse"):
        more = ("-o", tmp_path / "s", "--no-finetune", "--no-onnx", "--no-latency") if command == "fuse" else ()
        given, _, err = compress(capsys, command, tmp_path / "t", "--data", tmp_path / "d", *more)
        assert given == code, err
        assert f"{token!r}" in err and "has the id 7" in err and "7 tokens (ids 0 to 6)" in err
