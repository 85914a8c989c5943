"""Merges of fine-tunes, what an expert sees, and which rate a contender takes."""

import pytest
import torch
from pydantic import ValidationError
from tiny import save_vit

from benchmarks.common.rates import searched_rate
from benchmarks.common.results import Store
from benchmarks.common.setting import Arena, Places, Setting
from benchmarks.experts.contest import TRIALS, column, trial
from benchmarks.experts.domains import standard_library
from benchmarks.experts.figures import leads
from benchmarks.experts.merging import TASK_SCALE, plain_average, task_arithmetic, ties
from benchmarks.experts.pages import page
from benchmarks.experts.recipe import ExpertRecipe
from benchmarks.experts.settings import EVENTS
from benchmarks.text.corpora import domain
from benchmarks.text.recipe import TextRecipe
from benchmarks.vision.pictures import Images
from compressor.distillation.lr_search import LearningRateTrial, validation_rows

TRAINING = {
    "seed": 0, "steps": 1, "evaluate_every": 1, "batch_size": 1, "learning_rate": 0.1, "weight_decay": 0,
}  # fmt: skip


def test_merges_of_two_fine_tunes():
    ancestor = {"a": torch.zeros(4), "b": torch.ones(1)}
    experts = [
        {"a": torch.tensor([3.0, 0.1, 2.0, 0.0]), "b": torch.ones(1)},
        {"a": torch.tensor([1.0, 0.0, -4.0, 0.1]), "b": torch.ones(1)},
    ]
    assert plain_average(ancestor, experts)["a"].tolist() == pytest.approx([2.0, 0.05, -1.0, 0.05])
    assert task_arithmetic(ancestor, experts)["a"][0].item() == pytest.approx(TASK_SCALE * 4)
    # A fifth of five weights is one of each expert: 3 and -4, which do not meet.
    assert ties(ancestor, experts)["a"].tolist() == [3.0, 0.0, -4.0, 0.0]
    # Where they meet, the sign with more mass wins and is the mean of those that have it.
    meeting = [{"a": torch.tensor([0.0, 0.0, change, 0.0]), "b": torch.ones(1)} for change in (2.0, 4.0, -5.0)]
    assert ties(ancestor, meeting)["a"].tolist() == [0.0, 0.0, 3.0, 0.0]
    assert ties(ancestor, meeting)["b"].item() == 1


def test_what_an_expert_sees():
    images = Images(torch.arange(1000).view(-1, 1, 1, 1), torch.arange(1000) % 10)
    seen = ExpertRecipe(**TRAINING, start="x", classes=(0, 1), others=0.1).seen(images)
    own = torch.isin(seen.labels, torch.tensor([0, 1]))
    assert own.sum() == 200 and 40 < (~own).sum() < 140
    shards = [ExpertRecipe(**TRAINING, start="x", shard=(k, 4)).seen(images) for k in range(4)]
    assert sorted(torch.cat([one.pixels.flatten() for one in shards]).tolist()) == list(range(1000))
    for wrong in ({}, {"start": "x", "config": {"model_type": "vit"}}, {"start": "x", "shard": (2, 2)}):
        with pytest.raises(ValidationError):
            ExpertRecipe(**TRAINING, **wrong)


def test_a_rate_is_searched_once():
    known, asked = {}, []

    def search(draw):
        asked.append(draw)
        return [LearningRateTrial(1e-3, 0.5 - 0.3 * draw), LearningRateTrial(1e-2, 0.4), LearningRateTrial(1e-1, None)]

    rates = (0.0, 1e-3, 1e-2, 1e-1)
    assert searched_rate(known, "10 steps", rates, search) == 1e-2
    assert searched_rate(known, "10 steps", rates, search) == 1e-2 and asked == [0]
    assert searched_rate(known, "20 steps", rates, search, draws=2) == 1e-3
    assert known["20 steps"] == {"0.001": 0.35, "0.01": 0.4}
    assert [trial(steps) for steps in (10, 25, 50, 800)] == [TRIALS[0], TRIALS[0], TRIALS[1], TRIALS[1]]


def test_the_page_says_how_far_ours_is_before_the_better_part(tmp_path):
    event = EVENTS["class experts"]
    store = Store(tmp_path / "experts.json")
    store.content |= {"command": "run", "environment": {"torch": "2", "transformers": "5", "cpu": "this"}}
    figures = [{"score": score, "kl": kl, "parts": {"classes 0 to 4": score}} for score, kl in ((44.0, 1), (60.0, 0))]
    names = ("teachers", "ours: automatic", "teacher 1 alone, our refit", "teacher 2 alone, our refit")
    for seed in range(2):
        cells = [
            {"figures": [figures[0], *figures], "mixture": "logits"},
            *({"score": score + seed, "kl": kl, "parts": {"classes 0 to 4": 1.0}}
              for score, kl in ((59.0, 0.1), (44.0, 1.0), (50.0 - seed, 0.9))),
        ]  # fmt: skip
        for name, cell in zip(names, cells, strict=True):
            store.put(event.setting.name, name, column(256, 0), seed, cell)
    assert leads(store, event, 256, 0, "score") == [9.0, 10.0]
    assert leads(store, event, 256, 0, "kl") == pytest.approx([0.8, 0.8])
    text = page(store)
    assert "test accuracy in %, after … steps: 0: +9.5 ± 0.5." in text
    assert "| ours: automatic | 59.5 ± 0.5 (0.100) |" in text


def test_trials_are_judged_by_samples_that_no_fusion_saw(tmp_path):
    save_vit(tmp_path / "tiny", classes=tuple(map(str, range(10))))
    arena = Arena(Setting("", (("tiny",),), "digits", samples=64), Places((tmp_path,), tmp_path, tmp_path))
    every, fewer = (
        torch.cat([batch["pixel_values"] for batch in each.calibration(3)])
        for each in (arena, arena.without_validation(0.125))
    )
    train, kept_out = validation_rows(64, 0.125, 3)
    assert torch.equal(fewer, every[train]) and len(kept_out) == 8


def test_the_texts_of_two_domains(tmp_path):
    library = tmp_path / "library"
    library.mkdir()
    for name, content in (("a", "x = 1\n"), ("b", "y = 2\n"), ("c", "z = '\u00e9'\n")):
        (library / f"{name}.py").write_text(content, encoding="utf-8")
    text = standard_library(100, library)
    assert sorted(text.splitlines()) == ["x = 1", "y = 2"] and standard_library(7, library) == text[:7]
    for part in ("train", "validation", "test"):
        (tmp_path / f"code-{part}.txt").write_text(text * 40, encoding="utf-8")
    corpus = domain(tmp_path, "code")
    assert corpus.tokenizer.decode(corpus.test[0]["input_ids"]) == (text * 40)[:128] and len(corpus.tokenizer) == 257
    with pytest.raises(ValidationError, match="names its domain"):
        TextRecipe(task="domain", config={}, **TRAINING)
