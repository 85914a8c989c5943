"""The benchmark of a public sentence model: scores, what is measured once, and its page."""

import pytest
from tiny_sentences import save_sentence_model
from tiny_text import sentences

from benchmarks.common.results import Store
from benchmarks.pretrained import contest
from benchmarks.pretrained.contest import column, hold
from benchmarks.pretrained.pages import page
from benchmarks.pretrained.sentences import Sentences
from benchmarks.pretrained.settings import PARTS, SCORED, VALIDATION, Contender, Part

SLICES = Contender({"residual": "slice", "inner": "slice", "refit": False, "narrowing": "smaller-heads"})


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    for name, count, seed in (("train", VALIDATION + 40, 1), ("dev", 30, 2)):
        (root / f"{name}.tsv").write_text("".join(f"{text}\t1\n" for text in sentences(count, seed)), encoding="utf-8")
    return Sentences(root, save_sentence_model(root / "model"))


def test_the_model_itself_has_all_similarities_and_slices_have_fewer(given):
    scores = given.scores(given.teacher.model)
    assert scores["similarity"] == pytest.approx(1) and scores["neighbours"] == pytest.approx(1)
    assert len(given.training) == 40 and len(given.scored) == min(30, SCORED)
    student, _, seconds = contest._student(SLICES, given, 8, seed=0)
    assert given.scores(student)["neighbours"] < 0.9 and seconds > 0
    assert given.drawn(1) == given.drawn(1) != given.drawn(2)


def test_what_is_stored_is_not_measured_again_and_the_page_shows_it(given, tmp_path, monkeypatch):
    part = Part("Samples", {"slices": SLICES, "random": Contender(SLICES.options, random=True)}, note="A note.")
    store = Store(tmp_path / "pretrained.json")
    store.content |= {"command": "run", "environment": {"torch": "2", "transformers": "5", "cpu": "this"}}
    first = list(hold("samples", part, given, store, seeds=1, samples=(8,), steps=(0, 2)))
    assert len(first) == 4 and store.get("samples", "random", column(8, 2), 0)["distillation_seconds"] > 0
    monkeypatch.setattr(contest, "_student", lambda *_: pytest.fail("measured again"))
    assert not list(hold("samples", part, given, store, seeds=1, samples=(8,), steps=(0, 2)))
    monkeypatch.setitem(PARTS, "samples", part)
    text = page(store)
    assert "A note." in text and text.count("| slices | 8 |") == 2 and "16 wide" in text


def test_parts_name_contenders_that_the_fusion_knows():
    from compressor.recipe import FusionOptions

    for part in PARTS.values():
        assert 0 in part.steps
        for contender in part.contenders.values():
            options = {name: value for name, value in contender.options.items() if name != "width"}
            assert FusionOptions(**options)
