"""Judgements on samples kept out: the best weights are the result, training stops in time, and resumes the same."""

import math

import pytest
from distilling import Interrupt, Watched, options, same, samples, searching, state, vit

from compressor.distillation.distill import train_student
from compressor.distillation.objective import Objective
from compressor.errors import UserError

#: Judgements at steps 0, 2, 4, … of a run whose step 6 is its best.
JUDGED = (4.0, 3.0, 2.0, 1.0, 2.0, 4.0, 5.0)


def run(folder, steps=12, **fields):
    student = vit(2, width=8)
    more = {key: fields.pop(key) for key in ("resume", "progress", "train") if key in fields}
    train = more.pop("train", samples())
    fields = {"validate_every": 2, "checkpoint_every": 3, "validation": 0.25, "steps": steps, **fields}
    report = train_student(student, [vit(0)], [1], train, options(**fields), seed=5, work_dir=folder, **more)
    return state(student), report


@pytest.fixture
def judged(monkeypatch):
    """Judgements that are made up, by the step, which the scheduler's count tells; and the weights that were judged."""
    seen = {}

    def judge(self, model, validation, device=None):
        step = judge.step = judge.step + 2
        seen[step] = state(model)
        return JUDGED[step // 2]

    judge.step = -2
    monkeypatch.setattr(Objective, "evaluate", judge)
    seen["judge"] = judge
    return seen


def test_the_best_weights_are_the_result(tmp_path, judged):
    weights, report = run(tmp_path)
    assert report.judged == tuple(zip(range(0, 13, 2), JUDGED, strict=True))
    assert (report.best_step, report.steps, report.validation_samples) == (6, 12, 6)
    assert same(weights, judged[6]) and not same(weights, judged[12])


def test_a_student_that_only_gets_worse_stays_as_it_was(tmp_path, judged, monkeypatch):
    monkeypatch.setattr(Objective, "evaluate", lambda *_: next(rising))
    rising = iter(range(100))
    weights, report = run(tmp_path, patience=2)
    assert (report.best_step, report.steps) == (0, 4)
    assert same(weights, state(vit(2, width=8)))


def test_training_stops_when_patience_ends(tmp_path, judged):
    weights, report = run(tmp_path, patience=2)
    assert (report.best_step, report.steps) == (6, 10)
    assert same(weights, judged[6]) and max(key for key in judged if isinstance(key, int)) == 10


@pytest.mark.parametrize("every", [3, 5])
def test_a_stopped_run_that_is_resumed_is_not_gone_on_with(tmp_path, judged, every):
    """Whether its last checkpoint is of the step at which it stopped, or of an earlier one."""
    whole, report = run(tmp_path, patience=2, checkpoint_every=every)
    judged["judge"].step = {3: 8, 5: 10}[every]
    again, resumed = run(tmp_path, patience=2, checkpoint_every=every, resume=True)
    assert same(again, whole)
    assert (resumed.best_step, resumed.steps, resumed.judged) == (6, 10, report.judged)


@pytest.mark.parametrize("at", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_interrupted_and_resumed_is_undisturbed(tmp_path, at):
    whole, report = run(tmp_path / "whole", steps=11)
    assert [step for step, _ in report.judged] == [0, 2, 4, 6, 8, 10, 11]
    assert all(math.isfinite(loss) for _, loss in report.judged)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", steps=11, progress=Interrupt(at))
    again, resumed = run(tmp_path / "part", steps=11, resume=True)
    assert same(again, whole)
    assert (resumed.judged, resumed.best_step, resumed.loss) == (report.judged, report.best_step, report.loss)


def test_a_search_whose_trials_are_judged(tmp_path):
    fields = searching(validate_every=2).model_dump(exclude={"steps", "validate_every", "checkpoint_every"})
    _, report = run(tmp_path, steps=4, **fields)
    assert len(report.search) == 3 and len(report.judged) == 3
    assert report.search[2].validation_loss == pytest.approx(min(loss for _, loss in report.judged))


def test_what_is_kept_out_is_not_trained_on(tmp_path, monkeypatch):
    train = Watched(samples())
    monkeypatch.setattr(Objective, "evaluate", lambda *_: 1.0)
    run(tmp_path, train=train)
    assert len(set(train.seen)) == 18


def test_what_a_user_can_get_wrong(tmp_path):
    with pytest.raises(ValueError, match="patience counts judgements: set validate_every"):
        options(patience=2)
    with pytest.raises(UserError, match=r"finetune\.validate_every needs 2 training samples"):
        run(tmp_path, train=samples(1))
