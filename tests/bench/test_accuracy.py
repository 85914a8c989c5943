"""What is measured of text models and what they learn from: padding and batches change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from tiny_text import (
    VOCABULARY,
    config_of,
    model_of,
    save_plain,
    save_sentences,
    save_translations,
    save_words,
    tokenizer,
)
from torch.nn import functional

from compressor.bench import accuracy
from compressor.bench.accuracy import Tally, measure_accuracy
from compressor.data.batches import Batches, Samples
from compressor.data.samples import collate
from compressor.data.sources import open_split
from compressor.distillation.distill import train_student
from compressor.distillation.losses import label_loss
from compressor.ensemble.probabilities import ensemble_kl
from compressor.errors import UnsupportedError
from compressor.models.tasks.table import TASKS, find_task
from compressor.models.teacher import ModelSpec
from compressor.pipeline.scores.evaluation import Evaluator
from compressor.recipe import DataOptions, FinetuneOptions

KINDS = ("classifier", "tagger", "masked", "decoder", "llama", "bart", "t5")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    plain, pairs = save_plain(root / "plain.txt"), save_translations(root / "pairs.jsonl")
    words, sst = save_words(root / "words.jsonl"), save_sentences(root / "sst")
    return {"classifier": sst, "tagger": words, "bart": pairs, "t5": pairs} | dict.fromkeys(
        ("masked", "decoder", "llama", "features"), plain
    )


def opened(sources, kind, role):
    config = config_of(kind)
    labels = {int(index): name for index, name in config.id2label.items()}
    options = DataOptions(source=str(sources[kind]))
    return open_split(options, role, id2label=labels, task=find_task(config), reads="text")


def batches(sources, kind, size, role="train"):
    config = config_of(kind)
    words = tokenizer(framed=kind in ("classifier", "tagger", "masked"), pad=kind not in ("decoder", "llama"))
    return Batches(opened(sources, kind, role), words, size, labels=True, spec=ModelSpec.of(config), max_length=12)


def padded(found, extra=3):
    """The same batches with more padding."""
    more = []
    for batch in found:
        wider = {}
        for name, value in batch.items():
            fill = -100 if name == "labels" else 0
            wider[name] = functional.pad(value, (0, extra), value=fill) if value.dim() == 2 else value
        more.append(wider)
    return more


class Listed(list):
    """Batches that say what they are of."""

    split = None
    domains = None


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_batch_size_change_no_figure(sources, kind):
    teachers, student = [model_of(kind, seed) for seed in (0, 1)], model_of(kind, 2)
    found = []
    for given in (batches(sources, kind, 1), batches(sources, kind, 7), Listed(padded(batches(sources, kind, 7)))):
        judge = Evaluator(teachers, [1, 3], given)
        found.append((judge.score(student), judge.ensemble, *judge.teachers))
    for one, *others in zip(*found, strict=True):
        for other in others:
            assert (one.samples, one.labelled, one.accuracy, one.f1) == (
                other.samples, other.labelled, other.accuracy, other.f1,
            )  # fmt: skip
            assert one.kl == pytest.approx(other.kl, rel=1e-4, abs=1e-7)
            if one.perplexity is not None:
                assert one.perplexity == pytest.approx(other.perplexity, rel=1e-4)
    student_score, ensemble, *_ = found[0]
    assert student_score.kl > 0 and ensemble.kl == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["masked", "decoder", "bart"])
def test_perplexity_is_exp_of_the_models_own_loss(sources, kind):
    model, total, count = model_of(kind), 0.0, 0
    given = batches(sources, kind, 1)
    for batch in given:
        labels = batch["labels"][:, 1:] if kind == "decoder" else batch["labels"]
        known = int((labels >= 0).sum())
        if known:
            with torch.no_grad():
                total += model(**batch).loss.item() * known
            count += known
    (score,) = measure_accuracy([model], given)
    assert score.labelled == count
    assert score.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)


def test_perplexity_of_hand_made_answers():
    tally = Tally(TASKS["causal-lm"])
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]]])
    tally.add(probabilities.log(), {"attention_mask": torch.tensor([[1, 1, 0]])}, torch.tensor([[2, 1, -100]]))
    found = tally.score()
    assert found.labelled == 1 and found.perplexity == pytest.approx(4)
    assert found.accuracy is None and found.accuracy_error is None
    worst = Tally(TASKS["causal-lm"])
    worst.add(torch.tensor([[[0.0, -1e30], [0.0, -1e30]]]), {}, torch.tensor([[0, 1]]))
    assert math.isfinite(worst.score().perplexity)


@pytest.mark.parametrize("classes", [2, 5])
def test_f1_is_sklearns(classes):
    draw = np.random.default_rng(classes)
    true, said = draw.integers(0, classes, 60), draw.integers(0, max(classes - 1, 2), 60)
    rows = torch.nn.functional.one_hot(torch.tensor(said), classes).float().log_softmax(-1)
    found = accuracy.score_model(rows, torch.tensor(true))
    assert found.f1 == pytest.approx(f1_score(true, said, average="binary" if classes == 2 else "macro"))
    assert found.accuracy == (true == said).mean()


def test_f1_of_taggers_is_over_entity_tokens():
    draw = np.random.default_rng(0)
    true, said = draw.integers(0, 4, (6, 9)), draw.integers(0, 4, (6, 9))
    labels = torch.tensor(true)
    labels[:, 7:] = -100
    tally = Tally(TASKS["token-classification"], outside=0)
    rows = torch.nn.functional.one_hot(torch.tensor(said), 4).float().log_softmax(-1)
    tally.add(rows, {"attention_mask": torch.ones(6, 9)}, labels)
    true, said = true[:, :7].ravel(), said[:, :7].ravel()
    assert tally.score().f1 == pytest.approx(f1_score(true, said, average="micro", labels=[1, 2, 3]))
    assert tally.score().labelled == 42


def test_classes_that_nobody_says_have_an_f1_of_zero():
    rows = torch.zeros(3, 2).log_softmax(-1)
    assert accuracy.score_model(rows, torch.zeros(3, dtype=torch.long)).f1 == 0


@pytest.mark.parametrize("kind", ["decoder", "classifier"])
def test_answers_that_do_not_fit_are_asked_for_again(sources, kind):
    teachers, student, given = [model_of(kind, seed) for seed in (0, 1)], model_of(kind, 2), batches(sources, kind, 5)
    kept, again = Evaluator(teachers, [1, 1], given), Evaluator(teachers, [1, 1], given, room=100)
    assert not kept.runs_teachers and again.runs_teachers
    assert kept.score(student) == again.score(student) and kept.teachers == again.teachers


def test_large_batches_of_language_models_are_taken_in_parts(sources, monkeypatch):
    model, given = model_of("decoder"), batches(sources, "decoder", 20)
    (whole,) = measure_accuracy([model], given)
    monkeypatch.setattr(accuracy, "MOST_EVALUATED_LOGITS", 3 * 12 * len(VOCABULARY))
    assert max(len(found.log_probs[0]) for found in accuracy.predict([model], given)) == 3
    (parts,) = measure_accuracy([model], given)
    assert parts.labelled == whole.labelled and parts.perplexity == pytest.approx(whole.perplexity, rel=1e-5)


# What is learnt


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_the_loss(sources, kind):
    task, models = find_task(config_of(kind)), [model_of(kind, seed) for seed in (0, 1, 2)]
    batch = next(iter(batches(sources, kind, 7)))
    losses = []
    for given in (batch, *padded([batch])):
        inputs = {name: value for name, value in given.items() if name != "labels"}
        with torch.no_grad():
            logits = [model(**inputs).logits for model in models]
        counted = [task.counted(one, inputs) for one in logits]
        kl = ensemble_kl(counted[0], counted[1:], [1, 1], 2.0)
        losses.append((kl.item(), label_loss(*task.answered(logits[0], given["labels"])).item()))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    with torch.no_grad():
        expected = models[0](**batch).loss.item()
    assert losses[0][1] == pytest.approx(expected, rel=1e-4), "the label loss is the model's own"


@pytest.mark.parametrize("kind", ["classifier", "tagger", "masked", "decoder", "t5"])
def test_a_student_nears_its_teachers(sources, kind, tmp_path):
    config = config_of(kind)
    words = tokenizer(framed=kind in ("classifier", "tagger", "masked"), pad=kind not in ("decoder", "llama"))
    train = Samples(
        opened(sources, kind, "train"), words, ModelSpec.of(config), labels=True, cache_bytes=1 << 20, max_length=12
    )
    teachers, student = [model_of(kind, seed) for seed in (0, 1)], model_of(kind, 2)
    judge = Evaluator(teachers, [1, 1], batches(sources, kind, 8, role="eval"))
    before = judge.score(student).kl
    run = FinetuneOptions(steps=25, batch_size=8, learning_rate=3e-3, checkpoint_every=100, label_weight=0.1)
    report = train_student(student, teachers, [1, 1], train, run, seed=0, work_dir=tmp_path)
    assert report.steps == 25 and all(math.isfinite(loss) for _, loss in report.loss)
    assert judge.score(student).kl < before


def test_samples_of_any_length_are_learnt_from(tmp_path):
    train = [{"input_ids": torch.arange(6, 6 + length)} for length in (3, 5, 2, 4)]
    student = model_of("decoder", 1)
    run = FinetuneOptions(steps=2, batch_size=4, checkpoint_every=100)
    report = train_student(student, [model_of("decoder")], [1], train, run, seed=0, work_dir=tmp_path)
    batch = collate(train, pad=5)
    start, teacher = model_of("decoder", 1), model_of("decoder")
    with torch.no_grad():
        logits = [TASKS["causal-lm"].counted(model(**batch).logits, batch) for model in (start, teacher)]
    assert report.loss[0][1] == pytest.approx(ensemble_kl(logits[0], [logits[1]], [1]).item(), rel=1e-4)
    assert report.temperature == 1


def test_a_model_without_a_head_learns_nothing(tmp_path):
    with pytest.raises(UnsupportedError, match="no head"):
        train_student(
            model_of("features"), [model_of("features", 1)], [1], [{"input_ids": torch.ones(3, dtype=torch.long)}],
            FinetuneOptions(steps=1), seed=0, work_dir=tmp_path,
        )  # fmt: skip
