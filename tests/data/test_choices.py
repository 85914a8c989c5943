"""Texts with several ways to go on: columns in every usual form, batches and faults."""

from __future__ import annotations

import json

import pytest
from tiny_text import config_of, tokenizer

from compressor.data.batches import Batches
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.models.teacher import ModelSpec
from compressor.recipe import DataOptions

SPEC = ModelSpec.of(config_of("choices"))
SWAG = {"sent1": "the film is good", "sent2": "and", "ending0": "bad", "ending1": "very fine", "ending2": "dull"}
RACE = {"article": "the film is good", "question": "and", "options": ["bad", "very fine", "dull"]}
KEYED = {
    "question": "the film is good and",
    "choices": {"text": ["bad", "very fine", "dull"], "label": ["x", "y", "z"]},
}


def batches_of(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    split = open_split(DataOptions(source=str(path)), "train", task=SPEC.task, reads=SPEC.reads)
    return Batches(split, tokenizer(), 8, labels=split.label is not None, spec=SPEC)


@pytest.mark.parametrize(
    ("row", "label"),
    [(SWAG, {"label": 1}), (SWAG, {"label": "1"}), (RACE, {"answer": "B"}), (KEYED, {"answerKey": "y"})],
)
def test_choices_are_found_in_every_form(tmp_path, row, label):
    (batch,) = batches_of(tmp_path / "data.jsonl", *[{**row, **label}] * 4)
    samples = len(batch["labels"])
    assert batch["input_ids"].shape[:2] == (samples, 3) and batch["labels"].tolist() == [1] * samples
    ids, mask = batch["input_ids"][0, 1], batch["attention_mask"][0, 1].bool()
    text = tokenizer().decode(ids[mask], skip_special_tokens=True)
    assert text == "the film is good and very fine"
    # The others are shorter by a word.
    assert batch["attention_mask"][0].sum(-1).tolist() == [mask.sum() - 1, mask.sum(), mask.sum() - 1]
    assert ("token_type_ids" in batch) and batch["token_type_ids"].max() == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sent1": "a"}, "no columns of choices: name them ending0"),
        ({"ending0": "a", "ending1": "b"}, "no text before its choices"),
        ({**SWAG, "label": 3}, "3 is none of its 3 choices"),
        ({**RACE, "options": ["bad"]}, "no list of two or more texts"),
    ],
)
def test_data_that_cannot_be_used_is_refused_in_one_line(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        batches_of(tmp_path / "data.jsonl", row, row)


def test_rows_of_unlike_numbers_of_choices_are_refused(tmp_path):
    with pytest.raises(UserError, match="has 2 choices and the first 3"):
        batches_of(tmp_path / "data.jsonl", RACE, {**RACE, "options": ["bad", "dull"]})
