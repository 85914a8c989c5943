"""Several text files, or a column of that name, are domains: none is left out, and no block mixes two."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_text import config_of, save_plain, tokenizer

from compressor.data.batches import Batches, packed
from compressor.data.domains import MOST_DOMAINS, by_domain
from compressor.data.sources import open_split
from compressor.models.tasks.table import find_task
from compressor.models.teacher import ModelSpec
from compressor.recipe import DataOptions

LINES = {"films": "the good film was bad\n", "plots": "a dull plot and a good actor\n"}


@pytest.fixture
def two_files(tmp_path):
    """Two texts of one kind of sentence each, the second five times as long."""
    for name, times in (("films", 60), ("plots", 300)):
        (tmp_path / f"{name}.txt").write_text(LINES[name] * times)
    return f"{tmp_path}/films.txt,{tmp_path}/plots.txt"


def opened(source, config, role="eval", **options):
    return open_split(DataOptions(source=str(source), **options), role, task=find_task(config), reads="text")


@pytest.mark.parametrize("role", ["train", "eval"])
def test_both_roles_get_a_part_of_every_file(two_files, role):
    config, words = config_of("decoder"), tokenizer(framed=False)
    split = opened(two_files, config, role)
    texts = {name: "".join(part.dataset["text"]) for name, part in by_domain(split).items()}
    share = 0.1 if role == "eval" else 0.9
    for name, times in (("films", 60), ("plots", 300)):
        assert set(texts[name].splitlines(keepends=True)) == {LINES[name]}
        assert len(texts[name]) / len(LINES[name]) == pytest.approx(share * times, abs=1)
    blocks = packed(split, words, ModelSpec.of(config), 16)
    for name, part in by_domain(blocks).items():
        assert [token for ids in part.dataset["input_ids"] for token in ids] == words(texts[name])["input_ids"]
    # Each block has a number of its own, by which tokens are masked.
    assert blocks.dataset["block"] == list(range(len(blocks)))


def test_a_limit_is_that_of_all_domains_alike(two_files):
    config = config_of("decoder")
    blocks = packed(opened(two_files, config, "train"), tokenizer(framed=False), ModelSpec.of(config), 16, 10)
    assert {name: len(part) for name, part in by_domain(blocks).items()} == {"films": 5, "plots": 5}


def test_a_file_too_short_to_be_cut_is_learnt_from(tmp_path):
    (tmp_path / "films.txt").write_text(LINES["films"] * 60)
    (tmp_path / "tiny.txt").write_text("a")
    (tmp_path / "empty.txt").write_text("")
    config = config_of("decoder")
    train, held_out = (opened(tmp_path, config, role) for role in ("train", "eval"))
    assert list(by_domain(train)) == ["films", "tiny"] and held_out.domain is None and len(held_out)


def test_a_column_names_the_domain_and_is_no_text(tmp_path):
    rows = [f'{{"text": "{line.strip()}", "domain": "{name}", "label": 0}}' for name, line in LINES.items()]
    (tmp_path / "test.jsonl").write_text("\n".join(rows * 6))
    config = config_of("classifier")
    split = opened(tmp_path / "test.jsonl", config)
    assert (split.text, split.domain) == (("text",), "domain")
    batches = Batches(split, tokenizer(), 4, labels=True, spec=ModelSpec.of(config))
    names, numbers = batches.domains
    assert names == ["films", "plots"]
    firsts = [str(row["text"]).split()[0] for row in split.dataset]
    assert [{"the": 0, "a": 1}[first] for first in firsts] == numbers.tolist()


@pytest.mark.parametrize("count", [1, MOST_DOMAINS + 1])
def test_one_domain_or_too_many_are_none(tmp_path, count):
    rows = [f'{{"text": "the good film", "domain": "{index}"}}' for index in range(count)]
    (tmp_path / "test.jsonl").write_text("\n".join(rows * 2))
    assert opened(tmp_path / "test.jsonl", config_of("decoder")).domain is None


def test_lines_of_several_files_are_samples_of_a_classifier(tmp_path):
    for name in ("a", "b"):
        save_plain(tmp_path / f"{name}.txt", 12)
    split = opened(tmp_path, config_of("classifier"), "train")
    assert set(by_domain(split)) == {"a", "b"} and all(np.char.strip(split.dataset["text"]) != "")
