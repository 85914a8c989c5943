"""What the losses are, and that a finetune is reproducible, can be interrupted, and leaves everything else alone."""

import gc
import json
import math
import random
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch
from distilling import Interrupt, Watched, options, same, samples, searching, state, vit
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

import compressor
from compressor.distillation.checkpoints import newest_checkpoint, prepare_checkpoints
from compressor.distillation.damage import FINISHED
from compressor.distillation.distill import train_student
from compressor.distillation.losses import hidden_loss, label_loss
from compressor.distillation.lr_search import describe_step, split_validation
from compressor.distillation.objective import Objective
from compressor.ensemble.probabilities import ensemble_kl, ensemble_log_probs
from compressor.errors import UnsupportedError, UserError


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage():
    """Every Trainer collects garbage when it begins: quick, unless it goes through all that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


class TestLosses:
    def test_kl_is_that_of_the_softened_mean_of_the_softmaxes(self):
        torch.manual_seed(0)
        student, *teachers = (torch.randn(5, 4, dtype=torch.float64) for _ in range(3))
        mean = 0.25 * teachers[0].softmax(-1) + 0.75 * teachers[1].softmax(-1)
        target = mean ** (1 / 3) / (mean ** (1 / 3)).sum(-1, keepdim=True)
        expected = 9 * functional.kl_div((student / 3).log_softmax(-1), target, reduction="batchmean")
        torch.testing.assert_close(ensemble_kl(student, teachers, [1, 3], 3.0), expected)

    @pytest.mark.parametrize("mixing", [1.0, 4.0, math.inf])
    def test_the_best_student_is_the_mixture_at_every_temperature(self, mixing):
        torch.manual_seed(0)
        teachers = [5 * torch.randn(5, 4, dtype=torch.float64) for _ in range(2)]
        mixture = ensemble_log_probs(teachers, [1, 2], mixing=mixing)
        for temperature in (1.0, 2.0, 8.0):
            at_mixture = ensemble_kl(mixture, teachers, [1, 2], temperature, mixing)
            assert at_mixture.item() == pytest.approx(0, abs=1e-12)

    def test_kl_is_zero_only_at_the_ensemble(self):
        torch.manual_seed(0)
        teachers = [torch.randn(5, 4, dtype=torch.float64) for _ in range(2)]
        at_ensemble = ensemble_log_probs(teachers, [1, 1])
        assert ensemble_kl(at_ensemble, teachers, [1, 1]).item() == pytest.approx(0, abs=1e-12)
        assert ensemble_kl(teachers[0], teachers, [1, 1]) > 1e-3
        assert ensemble_kl(teachers[0], teachers, [1, 0]).item() == pytest.approx(0, abs=1e-12)

    def test_gradients_keep_their_size_at_high_temperatures(self):
        torch.manual_seed(0)
        teacher = torch.randn(64, 10)
        sizes = []
        for temperature in (8.0, 16.0):
            student = torch.randn(64, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
            ensemble_kl(student, [teacher], [1], temperature).backward()
            sizes.append(student.grad.norm().item())
        assert sizes[0] == pytest.approx(sizes[1], rel=0.1)

    def test_extreme_logits_stay_finite(self):
        extreme = torch.tensor([[1e4, -1e4, 0.0]])
        student = torch.zeros(1, 3, requires_grad=True)
        loss = ensemble_kl(student, [extreme, -extreme], [1, 1])
        loss.backward()
        assert loss.isfinite() and student.grad.isfinite().all()

    def test_tokens_count_as_samples(self):
        torch.manual_seed(0)
        student, teacher = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
        flat = ensemble_kl(student.reshape(10, 7), [teacher.reshape(10, 7)], [1], 2.0)
        torch.testing.assert_close(ensemble_kl(student, [teacher], [1], 2.0), flat)

    def test_label_loss_leaves_unknown_labels_out(self):
        torch.manual_seed(0)
        logits = torch.randn(4, 3)
        expected = functional.cross_entropy(logits[:2], torch.tensor([0, 2]))
        torch.testing.assert_close(label_loss(logits, torch.tensor([0, 2, -100, -1])), expected)
        assert label_loss(logits, torch.full((4,), -100)) == 0

    def test_hidden_loss_is_relative_to_the_target(self):
        torch.manual_seed(0)
        targets = [torch.randn(2, 5, 4), 100 * torch.randn(2, 5, 4)]
        assert hidden_loss(targets, targets) == 0
        assert hidden_loss([torch.zeros_like(target) for target in targets], targets).item() == pytest.approx(1)
        assert hidden_loss([1.1 * target for target in targets], targets).item() == pytest.approx(0.01, rel=1e-3)

    @pytest.mark.parametrize("weights", [[1.0], [1.0, -0.5], [0.0, 0.0]])
    def test_wrong_weights(self, weights):
        with pytest.raises(UserError, match="weights"):
            ensemble_log_probs([torch.zeros(1, 2)] * 2, weights)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights and the report of a whole run."""
    student = vit(2, width=8, dropout=0.2)
    work_dir = tmp_path_factory.mktemp("undisturbed")
    report = train_student(student, [vit(0), vit(1)], [1, 1], samples(), options(), seed=5, work_dir=work_dir)
    return state(student), report


class TestDistill:
    def test_same_seed_same_weights_and_another_seed_others(self, undisturbed, tmp_path):
        found = []
        for name, seed in (("again", 5), ("other", 6)):
            # What was drawn before must not matter.
            torch.manual_seed(len(name))
            student = vit(2, width=8, dropout=0.2)
            train_student(student, [vit(0), vit(1)], [1, 1], samples(), options(), seed=seed, work_dir=tmp_path / name)
            found.append(state(student))
        assert same(found[0], undisturbed[0])
        assert not same(found[1], undisturbed[0])

    def test_dropout_is_off_and_left_as_it_was(self, undisturbed, tmp_path):
        student = vit(2, width=8, dropout=0.9)
        train_student(student, [vit(0), vit(1)], [1, 1], samples(), options(), seed=5, work_dir=tmp_path)
        assert same(state(student), undisturbed[0])
        assert {one.p for one in student.modules() if isinstance(one, torch.nn.Dropout)} >= {0.9}

    @pytest.mark.parametrize("step", [2, 4, 7])
    def test_interrupted_and_resumed_gives_the_same_weights(self, undisturbed, tmp_path, step):
        """Before any checkpoint; after one at the end of a pass over the samples; after one in the middle of a pass."""
        every = {2: 3, 4: 3, 7: 5}[step]
        arguments = {"seed": 5, "work_dir": tmp_path}
        teachers, run = [vit(0), vit(1)], options(checkpoint_every=every)
        with pytest.raises(KeyboardInterrupt):
            train_student(
                vit(2, width=8, dropout=0.2), teachers, [1, 1], samples(), run, progress=Interrupt(step), **arguments
            )
        student = vit(2, width=8, dropout=0.2)
        report = train_student(student, teachers, [1, 1], samples(), run, resume=True, **arguments)
        assert report.resumed_from == {2: None, 4: 3, 7: 5}[step]
        assert same(state(student), undisturbed[0])
        assert report.loss == undisturbed[1].loss
        assert report.steps == 8

    def test_a_half_written_checkpoint_is_not_used(self, undisturbed, tmp_path):
        arguments = {"seed": 5, "work_dir": tmp_path}
        teachers = [vit(0), vit(1)]
        with pytest.raises(KeyboardInterrupt):
            train_student(
                vit(2, width=8, dropout=0.2), teachers, [1, 1], samples(), options(), progress=Interrupt(7), **arguments
            )
        assert (tmp_path / "checkpoint-6" / FINISHED).exists()
        # As if the process had died while it wrote the second one.
        (tmp_path / "checkpoint-6" / FINISHED).unlink()
        weights = tmp_path / "checkpoint-6" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
        student = vit(2, width=8, dropout=0.2)
        report = train_student(student, teachers, [1, 1], samples(), options(), resume=True, **arguments)
        assert report.resumed_from == 3
        assert same(state(student), undisturbed[0])

    def test_resuming_a_finished_run_changes_nothing(self, undisturbed, tmp_path):
        arguments = {"seed": 5, "work_dir": tmp_path}
        teachers = [vit(0), vit(1)]
        train_student(vit(2, width=8, dropout=0.2), teachers, [1, 1], samples(), options(), **arguments)
        student = vit(2, width=8, dropout=0.2)
        report = train_student(student, teachers, [1, 1], samples(), options(), resume=True, **arguments)
        assert report.resumed_from == report.steps == 8
        assert same(state(student), undisturbed[0])
        assert report.loss == undisturbed[1].loss

    def test_without_resume_old_checkpoints_are_forgotten(self, tmp_path):
        arguments = {"seed": 5, "work_dir": tmp_path}
        train_student(vit(2), [vit(0)], [1], samples(), options(), **arguments)
        report = train_student(vit(2), [vit(0)], [1], samples(), options(steps=2), **arguments)
        assert report.resumed_from is None
        assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]

    def test_another_runs_checkpoints_are_refused(self, tmp_path):
        train_student(vit(2), [vit(0)], [1], samples(), options(steps=1), seed=5, work_dir=tmp_path)
        with pytest.raises(UserError, match=r"another run \(differing: temperature, seed\)"):
            train_student(
                vit(2),
                [vit(0)],
                [1],
                samples(),
                options(steps=1, temperature=3),
                seed=6,
                work_dir=tmp_path,
                resume=True,
            )
        (tmp_path / "run.json").write_text("{")
        with pytest.raises(UserError, match="cannot tell"):
            train_student(vit(2), [vit(0)], [1], samples(), options(steps=1), seed=5, work_dir=tmp_path, resume=True)
        assert (tmp_path / "checkpoint-1").exists()

    def test_every_pass_sees_every_sample_once_in_an_order_of_its_own(self, tmp_path):
        train = Watched(samples(20))
        seen = train.seen
        train_student(vit(2), [vit(0)], [1], train, options(steps=5), seed=0, work_dir=tmp_path)
        assert len(seen) == 40
        assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
        assert seen[:20] != seen[20:]
        seen.clear()
        # A sample that was seen before the interruption is not loaded again.
        with pytest.raises(KeyboardInterrupt):
            train_student(
                vit(2), [vit(0)], [1], train, options(steps=5), seed=0, work_dir=tmp_path / "b", progress=Interrupt(4)
            )
        before = len(seen)
        train_student(vit(2), [vit(0)], [1], train, options(steps=5), seed=0, work_dir=tmp_path / "b", resume=True)
        assert before >= 32 and len(seen) - before == 16

    def test_the_student_nears_the_ensemble(self, tmp_path):
        torch.manual_seed(0)
        teachers, student, train = [vit(0), vit(1)], vit(2), samples(64)
        run = options(steps=60, batch_size=32, learning_rate=1e-2, checkpoint_every=100)
        report = train_student(student, teachers, [1, 1], train, run, seed=0, work_dir=tmp_path)
        first, last = (np.mean([loss for _, loss in part]) for part in (report.loss[:5], report.loss[-5:]))
        assert last < 0.25 * first
        assert [step for step, _ in report.loss] == list(range(1, 61))

    def test_the_first_steps_are_a_plain_loops(self, tmp_path):
        """AdamW, gradient clipping at 1, linear warm-up and cosine; all samples in one batch, so order is no matter."""
        train = samples(8)
        pixels = torch.stack([sample["pixel_values"] for sample in train])
        teachers = [vit(0), vit(1)]
        student, plain = vit(2), vit(2)
        run = options(steps=10, warmup=0.2, learning_rate=1e-3, weight_decay=0.0)
        report = train_student(student, teachers, [1, 2], train, run, seed=0, work_dir=tmp_path)
        optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=0.0)
        plain.train()
        losses = []
        for step in range(10):
            rate = step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 8))
            optimizer.param_groups[0]["lr"] = 1e-3 * rate
            with torch.no_grad():
                targets = [teacher(pixel_values=pixels).logits for teacher in teachers]
            loss = ensemble_kl(plain(pixel_values=pixels).logits, targets, [1, 2], 2.0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        np.testing.assert_allclose([loss for _, loss in report.loss], losses, rtol=1e-3)
        assert losses[-1] < losses[0]

    def test_teachers_see_each_batch_once_without_labels_and_are_unchanged(self, tmp_path):
        teachers = [vit(0), vit(1), vit(4)]
        before = [state(teacher) for teacher in teachers]
        seen = []
        for index, teacher in enumerate(teachers):
            teacher.register_forward_pre_hook(
                lambda _, args, kwargs, index=index: seen.append((index, tuple(kwargs), torch.is_grad_enabled())),
                with_kwargs=True,
            )
        run = options(steps=4, label_weight=0.5)
        train_student(vit(2), teachers, [1, 1, 0], samples(labels=True), run, seed=0, work_dir=tmp_path)
        assert seen == [(0, ("pixel_values",), False), (1, ("pixel_values",), False)] * 4
        assert all(same(state(teacher), weights) for teacher, weights in zip(teachers, before, strict=True))
        assert not any(teacher.training for teacher in teachers)
        assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())

    def test_labels_count_only_if_asked_for(self, tmp_path):
        found = {}
        for weight in (0.0, 1.0):
            for labels in (False, True):
                if weight and not labels:
                    continue
                student = vit(2)
                run = options(steps=2, label_weight=weight)
                train_student(student, [vit(0)], [1], samples(labels=labels), run, seed=0, work_dir=tmp_path / "run")
                found[weight, labels] = state(student)
        assert same(found[0.0, False], found[0.0, True])
        assert not same(found[0.0, True], found[1.0, True])

    def test_a_frozen_student_learns_and_is_left_ready_for_use(self, tmp_path):
        student = vit(2).requires_grad_(False)
        before = state(student)
        # The first step has a learning rate of 0.
        train_student(student, [vit(0)], [1], samples(), options(steps=2, warmup=0.0), seed=0, work_dir=tmp_path)
        assert all(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
        assert not student.training
        assert all(parameter.grad is None for parameter in student.parameters())
        assert student.device.type == "cpu"

    def test_random_state_of_the_caller_is_kept(self, tmp_path):
        def draws():
            return random.random(), np.random.random(), torch.rand(1).item()

        def seed():
            random.seed(1)
            np.random.seed(1)
            torch.manual_seed(1)

        student, teacher = vit(2), vit(0)
        seed()
        expected = draws()
        seed()
        train_student(student, [teacher], [1], samples(), options(steps=1), seed=9, work_dir=tmp_path)
        assert draws() == expected

    def test_nothing_is_printed_and_progress_tells_every_step(self, tmp_path, capfd):
        told = []
        report = train_student(
            vit(2), [vit(0)], [1], samples(), options(), seed=0, work_dir=tmp_path,
            progress=lambda *values: told.append(values),
        )  # fmt: skip
        assert capfd.readouterr() == ("", "")
        assert told == [(step, 8, loss) for step, loss in report.loss]
        assert len(told) == 8

    def test_only_checkpoints_are_written_and_no_more_than_two(self, tmp_path):
        train_student(vit(2), [vit(0)], [1], samples(), options(checkpoint_every=1), seed=0, work_dir=tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-7", "checkpoint-8", "run.json"]
        assert json.loads((tmp_path / "run.json").read_text())["seed"] == 0

    def test_text(self, tmp_path):
        def bert(seed):
            torch.manual_seed(seed)
            return BertForSequenceClassification(
                BertConfig(
                    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=20
                )
            )

        ids = torch.arange(1, 6)
        train = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}] * 5
        report = train_student(bert(0), [bert(1)], [1], train, options(steps=2), seed=0, work_dir=tmp_path)
        assert len(report.loss) == 2

    def test_a_diverging_run_says_so(self, tmp_path):
        broken = vit(0)
        torch.nn.init.constant_(broken.classifier.bias, math.nan)
        with pytest.raises(UserError, match=r"diverged.*learning_rate"):
            train_student(vit(2), [broken], [1], samples(), options(), seed=0, work_dir=tmp_path)

    def test_what_a_user_can_get_wrong(self, tmp_path):
        def run(train=None, weights=(1,), device="cpu", **fields):
            train = samples() if train is None else train
            return train_student(
                vit(2), [vit(0)], weights, train, options(**fields), seed=0, work_dir=tmp_path, device=device
            )

        with pytest.raises(UserError, match="no samples"):
            run(train=[])
        with pytest.raises(UserError, match="no labels"):
            run(label_weight=1.0)
        with pytest.raises(UserError, match="weights"):
            run(weights=(1, 1))
        with pytest.raises(UnsupportedError, match="CUDA_VISIBLE_DEVICES"):
            run(device="cuda:3")
        if not torch.cuda.is_available():
            with pytest.raises(UserError, match="no GPU"):
                run(device="cuda")
        assert list(tmp_path.iterdir()) == []

    def test_little_is_lost_to_the_trainer(self, tmp_path):
        """Against the same steps written out; with a model this small the Trainer's own work weighs the most."""
        train = samples(128)
        student, teachers = vit(2, width=64), [vit(0, width=64)]
        run = options(steps=30, batch_size=128, checkpoint_every=1000)
        marks = []
        train_student(
            student, teachers, [1], train, run, seed=0, work_dir=tmp_path,
            progress=lambda *_: marks.append(time.perf_counter()),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(student.parameters())
        student.train()
        plain = [time.perf_counter()]
        for _ in range(30):
            pixels = torch.stack([sample["pixel_values"] for sample in train])
            with torch.no_grad():
                targets = [teachers[0](pixel_values=pixels).logits]
            ensemble_kl(student(pixel_values=pixels).logits, targets, [1], 2.0).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            plain.append(time.perf_counter())
        # Generous, since machines that run tests are busy ones; the median of the steps is not.
        assert np.median(np.diff(marks)) < 2 * np.median(np.diff(plain))


class TestLabelsAlone:
    def test_labels_are_learnt_and_no_teacher_is_asked(self, tmp_path):
        def refuse(*_):
            raise AssertionError("a teacher was run")

        teacher = vit(0)
        teacher.register_forward_pre_hook(refuse)
        run = options(distil_weight=0, label_weight=1, steps=40, learning_rate=1e-2, checkpoint_every=100)
        found = []
        for name, teachers in (("one", [teacher]), ("none", [])):
            student = vit(2)
            report = train_student(student, teachers, [1.0] * len(teachers), samples(labels=True), run, seed=0,
                             work_dir=tmp_path / name)  # fmt: skip
            found.append(state(student))
        first, last = (np.mean([loss for _, loss in part]) for part in (report.loss[:3], report.loss[-3:]))
        assert last < 0.5 * first
        assert same(*found)

    def test_the_loss_is_the_weighted_sum_of_both(self, tmp_path):
        train = samples(8, labels=True)
        losses = {}
        for weights in ((2.0, 0.0), (0.0, 3.0), (2.0, 3.0)):
            run = options(steps=1, distil_weight=weights[0], label_weight=weights[1])
            report = train_student(vit(2), [vit(0)], [1], train, run, seed=0, work_dir=tmp_path / "run")
            losses[weights] = report.loss[0][1]
        logits = vit(2)(pixel_values=torch.stack([sample["pixel_values"] for sample in train])).logits
        labels = torch.stack([sample["labels"] for sample in train])
        assert losses[0.0, 3.0] == pytest.approx(3 * functional.cross_entropy(logits, labels).item(), rel=1e-4)
        assert losses[2.0, 3.0] == pytest.approx(losses[2.0, 0.0] + losses[0.0, 3.0], rel=1e-4)

    def test_without_teachers_labels_alone_are_learnt(self, tmp_path):
        train, run = samples(8, labels=True), {"steps": 2, "batch_size": 4, "label_weight": 1.0}
        found = []
        for name, teachers in (("none", []), ("one", [vit(0)])):
            student = vit(2)
            compressor.distill(student, teachers, train, work_dir=tmp_path / name, distil_weight=0, **run)
            found.append(state(student))
        assert same(*found)
        for weight in ({}, {"distil_weight": 0.5}):
            with pytest.raises(UserError, match=r"no teachers: .* distil_weight=0") as caught:
                compressor.distill(vit(2), [], train, work_dir=tmp_path / "refused", **run, **weight)
            assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match="nothing to learn from"):
            compressor.distill(vit(2), [], train, work_dir=tmp_path / "refused", distil_weight=0)
        assert not (tmp_path / "refused").exists()

    def test_there_must_be_labels(self, tmp_path):
        unknown = [{**sample, "labels": torch.tensor(-100)} for sample in samples()]
        for train, said in ((samples(), "no labels: name data with labels"), (unknown, "no label .* is known")):
            with pytest.raises(UserError, match=said):
                train_student(
                    vit(2), [], [], train, options(distil_weight=0, label_weight=1), seed=0, work_dir=tmp_path / "run"
                )
        with pytest.raises(ValueError, match="nothing to learn from"):
            options(distil_weight=0)


def searched(work_dir, run, **more):
    """A search from the same student, and what it reports."""
    student = vit(2, width=8)
    report = train_student(student, [vit(0), vit(1)], [1, 1], samples(), run, seed=5, work_dir=work_dir, **more)
    return state(student), report


#: As long as the training, and shorter.
LENGTHS = (None, 2)


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """Undisturbed searches, by the length of a trial."""
    return {steps: searched(tmp_path_factory.mktemp("searched"), searching(search_steps=steps)) for steps in LENGTHS}


class TestSearch:
    @pytest.mark.parametrize("steps", LENGTHS)
    def test_the_best_rate_trains_the_samples_that_were_not_kept_out(self, searches, tmp_path, steps):
        weights, report = searches[steps]
        assert [trial.learning_rate for trial in report.search] == [1e-4, 10.0, 1e-2]
        losses = [trial.validation_loss for trial in report.search]
        assert losses[2] < losses[0] < losses[1]
        assert report.learning_rate == 1e-2
        assert report.validation_samples == 6
        assert report.resumed_from is None
        # The same as if the rate had been given, and the samples that were kept out had not been there.
        rest, validation = split_validation(samples(), searching(), 5)
        assert sorted([*rest.indices, *validation.indices]) == list(range(24)) and len(validation) == 6
        student = vit(2, width=8)
        plain = train_student(
            student, [vit(0), vit(1)], [1, 1], rest, options(steps=4, learning_rate=1e-2), seed=5, work_dir=tmp_path
        )
        assert same(state(student), weights)
        assert (plain.loss, plain.steps) == (report.loss, report.steps)

    def test_the_judge_is_the_loss_of_the_training(self, tmp_path):
        """Over batches that are not alike: the mean over all samples, whatever their batches."""
        train = samples(7, labels=True)
        train[0]["labels"] = torch.tensor(-100)
        student, teacher = vit(2), vit(0)
        objective = Objective(student, [(teacher, 1.0)], options(batch_size=3, label_weight=0.5, distil_weight=2))
        batch = objective.collate(train)
        with torch.no_grad():
            logits, target = (model(pixel_values=batch["pixel_values"]).logits for model in (student, teacher))
        expected = 2 * ensemble_kl(logits, [target], [1], 2.0) + 0.5 * label_loss(logits, batch["labels"])
        assert objective.evaluate(student, train) == pytest.approx(expected.item(), rel=1e-5)

    def test_what_judges_is_never_trained_on(self, tmp_path, monkeypatch):
        train = Watched(samples())
        judged = []
        judge = Objective.evaluate

        def judging(self, model, validation):
            before = len(train.seen)
            loss = judge(self, model, validation)
            judged.append(train.seen[before:])
            del train.seen[before:]
            return loss

        monkeypatch.setattr(Objective, "evaluate", judging)
        train_student(vit(2), [vit(0)], [1], train, searching(search_steps=2), seed=5, work_dir=tmp_path)
        # The start, three trials and the result.
        assert len(judged[0]) == 6 and judged == judged[:1] * 5
        assert set(train.seen) == set(range(24)) - set(judged[0])

    @pytest.mark.parametrize(("steps", "at"), [(None, 1), (None, 7), (None, 12), (2, 3), (2, 9)])
    def test_interrupted_and_resumed_is_undisturbed(self, searches, tmp_path, steps, at):
        """Before any checkpoint, within and at the end of a trial, after a trial, and in the training after all."""
        run = searching(search_steps=steps)
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path, run, progress=Interrupt(at))
        told = []
        weights, report = searched(tmp_path, run, resume=True, progress=lambda *values: told.append(values[:2]))
        assert same(weights, searches[steps][0])
        expected = searches[steps][1]
        assert (report.search, report.loss, report.learning_rate) == (expected.search, expected.loss, 1e-2)
        in_all = 12 if steps is None else 10
        assert told == [(step, in_all) for step in range((report.resumed_from or 0) + 1, in_all + 1)]
        assert (report.resumed_from or 0) == 2 * ((at - 1) // 2)
        again = searched(tmp_path, run, resume=True)
        assert same(again[0], weights) and again[1].loss == report.loss and again[1].resumed_from == in_all

    def test_a_search_that_is_interrupted_leaves_the_student_as_it_was(self, tmp_path):
        student = vit(2)
        with pytest.raises(KeyboardInterrupt):
            train_student(
                student, [vit(0)], [1], samples(), searching(), seed=5, work_dir=tmp_path, progress=Interrupt(6)
            )
        assert same(state(student), state(vit(2)))

    def test_a_rate_that_diverges_loses(self, tmp_path, monkeypatch):
        judge = Objective.evaluate
        judged = iter([None, math.nan, None, None])
        monkeypatch.setattr(Objective, "evaluate", lambda *given: next(judged) or judge(*given))
        # In float32 a rate of 1e30 makes the second loss infinite.
        run = searching(learning_rates=(1e-2, 1e30, 1e-3), warmup=0)
        _, report = searched(tmp_path, run)
        assert [trial.validation_loss for trial in report.search[:2]] == [None, None]
        assert report.learning_rate == 1e-3 and report.search[2].validation_loss > 0
        monkeypatch.undo()
        assert json.loads(json.dumps(asdict(report)))["search"][1] == {"learning_rate": 1e30, "validation_loss": None}
        run = searching(learning_rates=(1e30, 1e31), warmup=0)
        with pytest.raises(UserError, match=r"every learning rate of the search \(1e\+30, 1e\+31\)"):
            searched(tmp_path, run)

    def test_a_training_that_diverges_after_its_search_says_so(self, tmp_path, monkeypatch):
        run = searching(learning_rates=(1e-2,), search_steps=1)
        broken, values = vit(0), iter([0.0, math.nan])

        def judging(*_):
            # The start, and then the trial.
            broken.classifier.bias.data.add_(next(values))
            return 1.0

        monkeypatch.setattr(Objective, "evaluate", judging)
        with pytest.raises(UserError, match=r"diverged.* 0\.01 that the search found best"):
            train_student(vit(2), [broken], [1], samples(), run, seed=5, work_dir=tmp_path)

    @pytest.mark.parametrize("steps", [None, 2])
    def test_a_student_that_no_rate_helps_stays_as_it_was(self, tmp_path, monkeypatch, steps):
        losses = iter([1.0, 3.0, 2.0, 4.0, 1.5])
        monkeypatch.setattr(Objective, "evaluate", lambda *_: next(losses))
        weights, report = searched(tmp_path, searching(learning_rates=(1e-4, 1e-3, 1e-2), search_steps=steps))
        assert same(weights, state(vit(2, width=8)))
        assert (report.best_step, report.judged, report.learning_rate) == (0, ((0, 1.0), (4, 1.5)), 1e-3)

    def test_little_is_left_behind(self, tmp_path):
        searched(tmp_path, searching())
        assert sorted(path.name for path in (tmp_path / "search").iterdir()) == ["rate-3", "trials.json"]
        searched(tmp_path, searching(search_steps=2))
        assert [path.name for path in (tmp_path / "search").iterdir()] == ["trials.json"]
        searched(tmp_path, options(steps=1))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "run.json"]

    def test_another_search_is_not_gone_on_from(self, tmp_path):
        searched(tmp_path, searching())
        with pytest.raises(UserError, match=r"another run \(differing: learning_rates\)"):
            searched(tmp_path, searching(learning_rates=(1e-4,)), resume=True)

    def test_at_least_one_and_at_most_2048_judge(self, tmp_path):
        for count, share, kept in ((2, 0.01, 1), (2, 0.99, 1), (100, 0.1, 10), (100_000, 0.5, 2048)):
            rest, validation = split_validation(range(count), searching(validation=share), 0)
            assert (len(rest), len(validation)) == (count - kept, kept)
        first, again, other = (split_validation(range(100), searching(), seed)[1].indices for seed in (0, 0, 1))
        assert first == again != other
        with pytest.raises(UserError, match="needs 2 training samples"):
            train_student(vit(2), [vit(0)], [1], samples(1), searching(), seed=0, work_dir=tmp_path)

    def test_labels_alone_cannot_judge_by_unknown_labels(self, tmp_path):
        train = samples(24, labels=True)
        _, validation = split_validation(train, searching(), 5)
        for index in validation.indices:
            train[index]["labels"] = torch.tensor(-100)
        run = searching(distil_weight=0, label_weight=1)
        with pytest.raises(UserError, match="none of the 6 samples to judge by has a known label"):
            train_student(vit(2), [], [], train, run, seed=5, work_dir=tmp_path)

    def test_steps_are_described(self):
        run = searching(search_steps=5, steps=10)
        assert describe_step(1, run) == "searching the learning rate: 1 of 3, step 1 of 5"
        assert describe_step(15, run) == "searching the learning rate: 3 of 3, step 5 of 5"
        assert describe_step(16, run) == "step 1 of 10"
        assert describe_step(30, searching(steps=10)) == "searching the learning rate: 3 of 3, step 10 of 10"
        assert describe_step(4, options()) == "step 4 of 8"


class TestCheckpoints:
    @pytest.mark.parametrize("name", ["checkpoint-5", "best", "search"])
    def test_those_of_somebody_else_stay(self, tmp_path, name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("x")
        with pytest.raises(UserError, match=f"{name} is of no finetune of this package"):
            train_student(vit(2), [vit(0)], [1], samples(), options(), seed=0, work_dir=tmp_path)
        assert (tmp_path / name / "mine.txt").read_text() == "x"

    def test_the_newest_finished_one_is_found_and_unfinished_ones_removed(self, tmp_path):
        prepare_checkpoints(tmp_path / "new", {"seed": 0}, resume=True)
        assert newest_checkpoint(tmp_path / "new") is None
        train_student(vit(2), [vit(0)], [1], samples(), options(), seed=0, work_dir=tmp_path)
        assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-6", "checkpoint-8"}
        for name in ("checkpoint-9", "checkpoint-100", "checkpoint-notes"):
            (tmp_path / name).mkdir()
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
        # The older one is there until the training has written the next.
        left = {"checkpoint-6", "checkpoint-8", "checkpoint-notes"}
        assert {path.name for path in tmp_path.glob("checkpoint-*")} == left
