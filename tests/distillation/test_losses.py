"""What hidden states and attention relations ask of a student, and that any of them makes it nearer to its teachers."""

import copy
import math

import pytest
import torch
from distilling import Interrupt, options, same, samples, state, vit
from tiny_text import model_of

import compressor
from compressor.anatomy import inspect_config
from compressor.anatomy.hooks import capture_outputs
from compressor.distillation.distill import train_student
from compressor.distillation.losses import LOSSES, relation_log_probs, relation_loss
from compressor.distillation.objective import FeatureTargets, Objective
from compressor.errors import UserError
from compressor.layer_maps import attention_pairs_of, load_layer_maps, save_layer_maps
from compressor.recipe import FinetuneOptions

EVERY = torch.ones(2, 5, dtype=torch.bool)


def relating(student, *teachers, passages=()):
    return FeatureTargets(passages, attention_pairs_of(student.config, [teacher.config for teacher in teachers]))


class TestTemperature:
    @pytest.mark.parametrize(
        ("kind", "expected"), [("decoder", 1.0), ("masked", 1.0), ("t5", 1.0), ("classifier", 2.0), ("vit", 2.0)]
    )
    def test_vocabularies_are_answered_as_they_are_and_classes_softened(self, kind, expected):
        student, teacher = (vit(seed) if kind == "vit" else model_of(kind, seed) for seed in (0, 1))
        ids = torch.randint(6, 20, (2, 7), generator=torch.Generator().manual_seed(0))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if kind == "t5":
            batch |= {"decoder_input_ids": ids, "decoder_attention_mask": torch.ones_like(ids)}
        if kind == "vit":
            batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples(4)])}

        def loss(**asked):
            return Objective(student, [(teacher, 1.0)], options(**asked)).loss(student, batch)[0].item()

        others = {1.0, 2.0, 4.0} - {expected}
        assert loss() == loss(temperature="auto") == loss(temperature=expected)
        assert all(loss(temperature=other) != pytest.approx(loss(), rel=1e-3) for other in others)

    @pytest.mark.parametrize("asked", [0, -1, "warm"])
    def test_what_is_no_temperature_is_refused(self, asked):
        with pytest.raises(ValueError, match="temperature"):
            options(temperature=asked)


class TestRelations:
    def test_widths_and_heads_may_differ_and_rotations_do_not_matter(self):
        torch.manual_seed(0)
        student = torch.randn(2, 5, 12)
        turn = torch.linalg.qr(torch.randn(4, 4))[0]
        turned = (student.reshape(2, 5, 3, 4) @ turn).flatten(2)
        assert relation_loss(turned, [student], [1.0], EVERY, heads=3).item() == pytest.approx(0, abs=1e-6)
        assert relation_loss(student, [torch.randn(2, 5, 24)], [1.0], EVERY, heads=3) > 0.01

    def test_padding_does_not_count(self):
        torch.manual_seed(0)
        student, teacher = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
        mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
        short = relation_loss(student[:, :3], [teacher[:, :3]], [1.0], mask[:, :3], heads=2)
        torch.testing.assert_close(relation_loss(student, [teacher], [1.0], mask, heads=2), short)
        assert relation_log_probs(student, 2, mask).exp()[..., 3:].max() == 0

    @pytest.mark.parametrize("kind", ["classifier", "decoder", "llama", "t5"])
    def test_every_kind_of_attention_is_found(self, kind):
        """Queries, keys and values of the last layers, be they one module's or three, of any number of heads."""
        model = model_of(kind)
        found = attention_pairs_of(model.config, [model.config])
        stacks = len(inspect_config(model.config).stacks)
        assert len(found) == 3 * stacks
        assert [relation.decoder for relation in found] == [index >= 3 for index in range(3 * stacks)]
        assert all(len(one.student.columns) % one.student.heads == 0 for one in found)

    def test_grouped_heads_of_unlike_models(self):
        student, teacher = model_of("llama", num_key_value_heads=1), model_of("llama", 1, num_key_value_heads=2)
        objective = Objective(
            student, [(teacher, 1.0)], options(distil_weight=0, losses={"relations": 1.0}), relating(student, teacher)
        )
        batch = {"input_ids": torch.arange(6, 12)[None], "attention_mask": torch.ones(1, 6, dtype=torch.long)}
        loss, _ = objective.loss(student, batch)
        assert math.isfinite(loss.item()) and loss > 0


@pytest.fixture(scope="module")
def fusion():
    """A fusion of two tiny teachers, these, and samples."""
    teachers = [model_of("classifier", seed) for seed in (0, 1)]
    ids = torch.randint(6, 20, (24, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = compressor.fuse(teachers, 0.5, [batch] * 2, residual="barycentre", inner="slice")
    return found, teachers, [{name: value[row] for name, value in batch.items()} for row in range(24)]


class TestHidden:
    @pytest.mark.parametrize("kind", ["vit", "decoder", "t5", "classifier"])
    def test_a_student_as_wide_as_its_teacher_is_its_target(self, kind):
        """At full width without a refit the residual stream behind every layer is the transported one.

        Pre-norm models are transported in canonical form, and watched as they are: the maps account for that.
        """
        teacher = vit() if kind == "vit" else model_of(kind)
        found = compressor.fuse([teacher], 1.0, None, residual="barycentre")
        student, depth = found.model, sum(len(stack.layers) for stack in found.anatomy.stacks)
        assert len(found.passages) == depth
        run = options(distil_weight=0, losses={"hidden": 1.0})
        objective = Objective(student, [(teacher, 1.0)], run, FeatureTargets(found.passages))
        if kind == "vit":
            batch = objective.collate(samples(4))
        else:
            ids = torch.randint(6, 20, (2, 7), generator=torch.Generator().manual_seed(0))
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if kind == "t5":
                batch |= {"decoder_input_ids": ids, "decoder_attention_mask": torch.ones_like(ids)}
        loss, _ = objective.loss(student, batch)
        assert loss.item() < 1e-6
        with torch.no_grad():
            next(parameter for parameter in student.parameters() if parameter.dim() > 1).mul_(1.5)
        assert objective.loss(student, batch)[0] > 1e-3

    @pytest.mark.slow
    def test_it_brings_the_student_to_the_transported_stream(self, tmp_path, fusion):
        found, teachers, train = fusion
        student, targets = copy.deepcopy(found.model), FeatureTargets(found.passages)
        with torch.no_grad():
            student.bert.embeddings.word_embeddings.weight.add_(0.3 * torch.randn(22, 16))
        run = options(steps=15, batch_size=24, learning_rate=1e-2, distil_weight=0, checkpoint_every=100,
                      losses={"hidden": {"weight": 1.0, "decay": None}})  # fmt: skip
        report = train_student(student, teachers, [1, 1], train, run, seed=0, work_dir=tmp_path, targets=targets)
        assert report.loss[-1][1] < 0.8 * report.loss[0][1]

    def test_passages_are_kept_in_a_file_by_their_teachers(self, tmp_path, fusion):
        found, *_ = fusion
        save_layer_maps(tmp_path, found.passages, ["a", "b"])
        assert [path.name for path in tmp_path.iterdir()] == ["transport.npz"]
        kept = load_layer_maps(tmp_path, ["a", "b"])
        turned = load_layer_maps(tmp_path, ["b", "a"])
        for one, other, back in zip(found.passages, kept, turned, strict=True):
            assert (one.layer, one.layers, one.decoder) == (other.layer, other.layers, other.decoder)
            assert back.pushes[0] is None or torch.equal(back.pushes[0], one.pushes[1])
            assert all(
                (a is None and b is None) or torch.equal(a, b) for a, b in zip(one.pushes, other.pushes, strict=True)
            )
        assert load_layer_maps(tmp_path, ["a", "c"]) == ()
        assert load_layer_maps(tmp_path / "elsewhere", ["a"]) == ()
        (tmp_path / "transport.npz").write_bytes(b"PK")
        with pytest.raises(UserError, match="cannot read"):
            load_layer_maps(tmp_path, ["a", "b"])

    def test_teachers_in_the_users_order(self):
        wide, narrow = model_of("decoder", n_embd=48, n_head=6), model_of("decoder", 1)
        ids = torch.randint(6, 20, (8, 9), generator=torch.Generator().manual_seed(0))
        for teachers in ([wide, narrow], [narrow, wide]):
            found = compressor.fuse(teachers, 0.5, [{"input_ids": ids}] * 2, residual="barycentre")
            for passage in found.passages:
                for push, teacher in zip(passage.pushes, teachers, strict=True):
                    assert push is None or push.shape[0] == teacher.config.n_embd


class TestWeights:
    def test_decay(self):
        run = FinetuneOptions(losses={"hidden": 0.5, "relations": {"weight": 2.0, "decay": None}})
        hidden, relations = run.losses["hidden"], run.losses["relations"]
        assert [hidden.at(done) for done in (0.0, 0.5, 1.0)] == [0.5, 0.25, 0.0]
        assert relations.at(0.9) == 2.0
        assert FinetuneOptions(**run.model_dump()) == run

    def test_what_decays_is_gone_at_the_end_and_does_not_judge(self, tmp_path):
        student, teacher = vit(2, width=8), vit(0)
        run = options(losses={"relations": {"weight": 3.0, "decay": 0.5}})
        objective = Objective(student, [(teacher, 1.0)], run, relating(student, teacher))
        plain = Objective(student, [(teacher, 1.0)], options())
        batch = objective.collate(samples(8))
        begin, middle, end = (objective.loss(student, batch, done)[0].item() for done in (0.0, 0.25, 0.5))
        assert end == pytest.approx(plain.loss(student, batch)[0].item())
        assert begin - end == pytest.approx(2 * (middle - end), rel=1e-4) and begin > end
        assert objective.evaluate(student, samples(8)) == pytest.approx(plain.evaluate(student, samples(8)))

    def test_answers_judge_where_they_are_trained_for(self):
        student, teacher = vit(2, width=8), vit(0)
        lasting = {"losses": {"relations": {"weight": 1.0, "decay": None}}}
        both, plain, alone = (
            Objective(student, [(teacher, 1.0)], options(**fields), relating(student, teacher))
            for fields in (lasting, {"losses": {}}, {**lasting, "distil_weight": 0})
        )
        judged = [objective.evaluate(student, samples(8)) for objective in (both, plain, alone)]
        assert judged[0] == pytest.approx(judged[1]) and judged[2] != pytest.approx(judged[1], rel=1e-3)

    def test_few_samples_are_learned_from_by_streams_too(self, tmp_path, fusion):
        found, teachers, train = fusion
        targets = FeatureTargets(found.passages)

        def losses(targets=targets, **fields):
            run = options(batch_size=len(train), checkpoint_every=100, **fields)
            student = copy.deepcopy(found.model)
            return train_student(
                student, teachers, [1, 1], train, run, seed=0, work_dir=tmp_path, targets=targets
            ).losses

        assert losses(steps=5) == {"hidden": 10.0}
        assert losses(steps=4) == losses(steps=5, losses={}) == losses(steps=5, targets=None) == {}
        assert losses(steps=5, losses={"hidden": 0.5}) == {"hidden": 0.5}

    def test_parts_of_a_batch_add_up_to_it(self):
        student, teacher = model_of("tagger"), model_of("tagger", 1)
        run = options(label_weight=0.5, losses={"relations": 1.0})
        objective = Objective(student, [(teacher, 1.0)], run, relating(student, teacher))
        lengths, draw = (3, 9, 5, 2, 7, 4), torch.Generator().manual_seed(0)
        train = []
        for length in lengths:
            ids, labels = (torch.randint(low, high, (length,), generator=draw) for low, high in ((6, 20), (-1, 3)))
            train.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
        parts = [objective.collate(train[:2]), objective.collate(train[2:])]
        totals = [sum(column) for column in zip(*(objective.counts(part) for part in parts), strict=True)]
        added = sum(objective.loss(student, part, totals=totals)[0] for part in parts)
        torch.testing.assert_close(added, objective.loss(student, objective.collate(train))[0])

    def test_a_run_of_all_losses_is_resumed_bit_for_bit(self, tmp_path, fusion):
        found, teachers, train = fusion
        targets = relating(found.model, *teachers, passages=found.passages)
        run = options(losses={"hidden": 1.0, "relations": 1.0})

        def go(folder, **more):
            student = copy.deepcopy(found.model)
            train_student(student, teachers, [1, 1], train, run, seed=5, work_dir=folder, targets=targets, **more)
            return state(student)

        whole = go(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "part", progress=Interrupt(5))
        assert same(go(tmp_path / "part", resume=True), whole)

    def test_what_a_user_can_get_wrong(self, tmp_path):
        def run(**losses):
            return train_student(vit(2), [vit(0)], [1], samples(), options(losses=losses), seed=0, work_dir=tmp_path)

        assert LOSSES.names() == ("hidden", "labels", "logits", "relations")
        with pytest.raises(UserError, match=r"unknown loss 'magic' \(known: hidden, labels, logits, relations\)"):
            run(magic=1.0)
        with pytest.raises(UserError, match="hidden needs the transport of a fusion"):
            run(hidden=1.0)
        with pytest.raises(UserError, match="relations needs an attention"):
            run(relations=1.0)
        for name, field in (("logits", "distil_weight"), ("labels", "label_weight")):
            with pytest.raises(ValueError, match=f"the weight of {name} is {field}"):
                options(losses={name: 1.0})
        assert not list(tmp_path.glob("checkpoint-*"))


def test_teachers_run_once_for_all_losses_in_inference_mode(tmp_path):
    student, teacher = vit(2, width=8), vit(0)
    seen = []
    teacher.register_forward_pre_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    run = options(steps=3, losses={"relations": 1.0})
    train_student(
        student, [teacher], [1], samples(), run, seed=0, work_dir=tmp_path, targets=relating(student, teacher)
    )  # fmt: skip
    assert seen == [True] * 3
    assert not any(parameter.is_inference() for parameter in teacher.parameters())


def test_a_module_is_watched_call_by_call():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with capture_outputs(model, ["0"]) as seen:
        model(torch.ones(1, 2))
        model(torch.zeros(1, 2))
    assert len(seen["0"]) == 2 and torch.equal(seen["0"][1][0], model[0].bias)
