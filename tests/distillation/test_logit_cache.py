"""Kept logits: the same as asking, asked for once, and never taken for those of other teachers or data."""

import numpy as np
import pytest
import torch
from distilling import Interrupt, options, same, samples, state, vit
from tiny_text import model_of, save_sentences, tokenizer

from compressor.data.batches import Samples
from compressor.data.sources import open_split
from compressor.distillation.distill import train_student
from compressor.errors import UserError
from compressor.models.teacher import ModelSpec
from compressor.recipe import DataOptions


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "logits"


def counted(teacher):
    """The teacher, and a list that grows by the samples it is asked about."""
    seen = []
    teacher.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(next(iter(kwargs.values())))), with_kwargs=True
    )
    return teacher, seen


def kept_in(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def run(folder, teachers, train, student=None, **fields):
    student = vit(2, width=8) if student is None else student
    more = {key: fields.pop(key) for key in ("resume", "progress") if key in fields}
    report = train_student(
        student, teachers, [1.0] * len(teachers), train, options(**fields), seed=5, work_dir=folder, **more
    )
    return state(student), [loss for _, loss in report.loss]


def test_kept_logits_are_those_of_the_teachers_and_asked_for_once(tmp_path, cache):
    _, plain = run(tmp_path / "plain", [vit(0), vit(1)], samples())
    teacher, seen = counted(vit(0))
    weights, losses = run(tmp_path / "a", [teacher, vit(1)], samples(), cache_logits=True)
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    assert sum(seen) == 24 and len(kept_in(cache)) == 2
    again, _ = run(tmp_path / "b", [teacher, vit(1)], samples(), cache_logits=True)
    assert same(again, weights) and sum(seen) == 24
    assert not list(cache.glob(".*.partial"))


def test_other_teachers_and_other_data_are_told_apart(tmp_path, cache):
    for index, (seed, count) in enumerate(((0, 24), (1, 24), (0, 16), (0, 24))):
        run(tmp_path / str(index), [vit(seed)], samples(count), cache_logits=True, steps=1)
    assert len(kept_in(cache)) == 3


def test_answers_for_every_token_of_texts_of_any_length(tmp_path, cache):
    draw = torch.Generator().manual_seed(0)
    train = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for ids in (torch.randint(6, 20, (length,), generator=draw) for length in (3, 9, 5, 2, 7, 4, 8, 6))
    ]
    found = {}
    for name in (False, True):
        _, found[name] = run(
            tmp_path / str(name), [model_of("tagger", 1)], train, model_of("tagger"), cache_logits=name, batch_size=3
        )
    np.testing.assert_allclose(found[True], found[False], rtol=1e-5)


@pytest.mark.slow
def test_a_search_judges_by_kept_logits_and_a_run_resumes_with_them(tmp_path, cache):
    fields = {"cache_logits": True, "learning_rate": "search", "learning_rates": (1e-3, 1e-2), "validation": 0.25}
    teacher, seen = counted(vit(0))
    whole, _ = run(tmp_path / "whole", [teacher], samples(), **fields)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", [teacher], samples(), progress=Interrupt(13), **fields)
    resumed, _ = run(tmp_path / "part", [teacher], samples(), resume=True, **fields)
    assert same(resumed, whole) and sum(seen) == 24


def test_what_was_half_written_is_not_used(tmp_path, cache):
    whole, _ = run(tmp_path / "a", [vit(0)], samples(), cache_logits=True)
    (name,) = kept_in(cache)
    (cache / name).rename(cache / f".{name}.partial")
    (cache / f".{name}.partial" / "logits.f32").write_bytes(b"1234")
    assert same(run(tmp_path / "b", [vit(0)], samples(), cache_logits=True)[0], whole)
    assert kept_in(cache) == [name]


def test_data_and_preprocessor_are_their_key(tmp_path):
    root, spec = save_sentences(tmp_path / "data"), ModelSpec.of(model_of("classifier").config)
    split = open_split(DataOptions(source=str(root)), "train")

    def key(processor=None, split=split, **more):
        return Samples(split, processor or tokenizer(), spec, labels=False, cache_bytes=0, **more).key

    used = tokenizer()
    used("a good film", truncation=True, max_length=3)
    assert key() == key(used) == Samples(split, used, spec, labels=True, cache_bytes=0).key
    others = [key(max_length=8), key(tokenizer(framed=False)), key(split=split.take(5))]
    assert len({key(), *others}) == 4


def test_what_it_does_not_go_with(tmp_path, cache):
    for fields, said in (({"augment": "flip"}, "stay as they are"), ({"losses": {"relations": 1}}, "must see")):
        with pytest.raises(UserError, match=f"cache_logits .*{said}"):
            run(tmp_path, [vit(0)], samples(), cache_logits=True, **fields)
