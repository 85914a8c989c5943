"""Columns of labels that hold, and of values."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny_text import tokenizer

from compressor.data.batches import Batches
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.models.tasks.table import TASKS
from compressor.recipe import DataOptions

NAMES = {0: "food", 1: "service", 2: "price"}
EXPECTED = [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def read(path, task, names, **options):
    split = open_split(
        DataOptions(source=str(path), train_split="train", **options), "train", id2label=names, task=TASKS[task],
        reads="text",
    )  # fmt: skip
    return None if split.label is None else torch.from_numpy(split.labels)


def jsonl(folder, rows):
    # With a part for evaluation, so that none is held out.
    for part in ("train", "test"):
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize(
    "labels",
    [
        [["food", "price"], [], ["service"]],
        [[0, 2], [], [1]],
        [["PRICE", "food"], [], ["Service"]],
        [[1, 0, 1], [0, 0, 0], [0, 1, 0]],
        [[True, False, True], [False, False, False], [False, True, False]],
        [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        ["food, price", "", "service"],
        ["food;price", "", "service"],
    ],
)
def test_labels_that_hold_are_read_in_every_form(tmp_path, labels):
    rows = [{"text": "a film", "labels": held} for held in labels]
    found = read(jsonl(tmp_path, rows), "text-multi-label", NAMES)
    assert found.dtype == torch.float32 and found.tolist() == EXPECTED


def test_a_column_for_each_label(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("text,Price,food,service\na,1,1,0\nb,0,0,0\nc,0,0,1\n")
    assert read(tmp_path, "text-multi-label", NAMES).tolist() == EXPECTED


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["food"], ["music"]], "row 1 of .*column 'labels': label 'music' is not one of the model's labels"),
        ([[0], [7]], "row 1 of .*label 7 is out of range"),
        ([["food"], None], "row 1 of .* is missing: give an empty list"),
        ([[1, 0, 1], [3, 0, 1]], "label 3 is out of range"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, labels, message):
    rows = [{"text": "a film", "labels": held} for held in labels]
    with pytest.raises(UserError, match=message):
        read(jsonl(tmp_path, rows), "text-multi-label", NAMES)


def test_values_keep_their_sign_and_fraction(tmp_path):
    rows = [{"text": "a", "id": "x", "score": -1.5}, {"text": "b", "id": "y", "score": 3}]
    assert read(jsonl(tmp_path, rows), "text-regression", {0: "LABEL_0"}).tolist() == [[-1.5], [3.0]]


def test_whole_numbers_are_values_too_and_a_missing_one_is_not_known(tmp_path):
    rows = [{"text": "a", "stars": 5}, {"text": "b", "stars": None}, {"text": "c", "stars": 1}]
    found = read(jsonl(tmp_path, rows), "text-regression", {0: "LABEL_0"})
    assert (
        found[0] == 5 and math.isnan(found[1]) and TASKS["text-regression"].known(found).tolist() == [True, False, True]
    )


def test_several_values_are_lists(tmp_path):
    rows = [{"text": "a", "values": [0.5, 2]}, {"text": "b", "values": [1, 3]}]
    assert read(jsonl(tmp_path, rows), "text-regression", {0: "x", 1: "y"}).tolist() == [[0.5, 2.0], [1.0, 3.0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "low": 1.0, "high": 2.0}], "several columns of numbers, 'low' and 'high'"),
        ([{"text": "a", "score": 1.0}, {"text": "b", "score": float("inf")}], "infinite"),
    ],
)
def test_values_that_do_not_fit_are_named(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read(jsonl(tmp_path, rows), "text-regression", {0: "LABEL_0"})


def test_text_without_values_is_unlabelled(tmp_path):
    assert read(jsonl(tmp_path, [{"text": "a"}, {"text": "b"}]), "text-regression", {0: "LABEL_0"}) is None


def test_a_batch_holds_float_labels(tmp_path):
    from tiny_text import config_of

    from compressor.models.teacher import ModelSpec

    config = config_of("classifier")
    config.problem_type, config.id2label = "multi_label_classification", NAMES
    spec = ModelSpec.of(config)
    rows = [{"text": "the film", "labels": held} for held in (["food"], [], ["price"])]
    split = open_split(
        DataOptions(source=str(jsonl(tmp_path, rows)), train_split="train"), "train", id2label=spec.labels,
        task=spec.task, reads="text",
    )  # fmt: skip
    (batch,) = Batches(split, tokenizer(), 4, labels=True, spec=spec)
    assert batch["labels"].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert batch["input_ids"].shape[0] == 3
