"""Questions on contexts: columns in every usual form, windows, labels and scores."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_text import config_of, tokenizer

from compressor.data.batches import Batches
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.models.teacher import ModelSpec
from compressor.pipeline.scores.evaluation import Evaluator
from compressor.recipe import DataOptions

SPEC = ModelSpec.of(config_of("questions"))
CONTEXT = "the film is good and the plot is dull and the actor was very fine"
ROW = {"question": "is the film good", "context": CONTEXT}
START = CONTEXT.index("very fine")
ANSWERS = {"text": ["very fine"], "answer_start": [START]}


def batches_of(path, max_length=32, **options):
    split = open_split(DataOptions(source=str(path), **options), "eval", task=SPEC.task, reads=SPEC.reads)
    return Batches(split, tokenizer(), 4, labels=split.label is not None, spec=SPEC, max_length=max_length)


def save(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"answers": ANSWERS},
        {"answers": [{"text": "very fine", "answer_start": START}]},
        {"answers": json.dumps(ANSWERS)},
        {"answer_text": "very fine", "answer_start": START},
    ],
    ids=["lists", "list", "json", "columns"],
)
def test_the_span_of_an_answer_is_found_in_every_form(tmp_path, row):
    (batch,) = batches_of(save(tmp_path / "data.jsonl", {**ROW, **row}, {**ROW, **row}))
    first, last = batch["labels"][0].tolist()
    assert tokenizer().decode(batch["input_ids"][0, first : last + 1]) == "very fine"


def test_a_long_context_is_cut_into_windows_and_each_knows_its_question(tmp_path):
    given = batches_of(save(tmp_path / "data.jsonl", *[{**ROW, "answers": ANSWERS}] * 6), max_length=16)
    (batch,), references = list(given), given.references
    found = [index for index in range(len(given.split)) if batch["labels"][index].sum() > 0]
    # One of the six questions is held out for evaluation; only the last window has its answer.
    assert len(given.split) > 1 and found == [len(given.split) - 1]
    begins, ends = references.places(found[0])
    first, last = batch["labels"][found[0]].tolist()
    assert references.context(references.question(found[0]))[begins[first] : ends[last]] == "very fine"
    assert batch["labels"][0].tolist() == [0, 0]


def test_data_without_answers_has_no_labels(tmp_path):
    (batch,) = batches_of(save(tmp_path / "data.jsonl", ROW, ROW))
    assert "labels" not in batch


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a"}, "no columns of questions and contexts: name both with data.text_column"),
        ({**ROW, "answers": {"text": ["very fine"], "answer_start": [0]}}, "does not hold 'very fine' at character 0"),
        ({**ROW, "answers": "{broken"}, "is no JSON such as"),
        ({**ROW, "answers": "very fine"}, "every answer has a text and the number of its first character"),
    ],
)
def test_data_that_cannot_be_used_is_refused_in_one_line(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        batches_of(save(tmp_path / "data.jsonl", row, row))


class KnowsForQuestionAnswering(torch.nn.Module):
    """Says that the answer is the tokens `very fine`, wherever they are."""

    def __init__(self):
        super().__init__()
        from tiny_text import VOCABULARY

        self.first, self.last = (VOCABULARY.index(word) for word in ("very", "fine"))
        self.config, self.device, self.name_or_path = SPEC.config, torch.device("cpu"), "knows"

    def forward(self, input_ids, attention_mask, token_type_ids):
        found = [9.0 * (input_ids == word) for word in (self.first, self.last)]
        return {"start_logits": found[0], "end_logits": found[1]}


def test_the_best_window_answers_a_question_and_is_scored_by_its_words(tmp_path):
    rows = [{**ROW, "answers": ANSWERS}] * 5 + [{**ROW, "answers": {"text": ["fine"], "answer_start": [START + 5]}}] * 5
    batches = batches_of(save(tmp_path / "test.jsonl", *rows), max_length=16)
    score = Evaluator([KnowsForQuestionAnswering()], [1.0], batches).teachers[0]
    expected = [batches.references.answers(question) for question in range(2)]
    # "very fine" against "fine": two thirds.
    assert score.value("exact_match") == sum(answer == ["very fine"] for answer in expected) / 2
    assert score.f1 == pytest.approx(sum(1 if answer == ["very fine"] else 2 / 3 for answer in expected) / 2)
    assert score.labelled == 2 and score.samples == len(batches.split)
