"""Students are judged by all held-out samples and by the part that they serve worst."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from families import batches_of, config_of, tiny_model
from torch import nn

from compressor.ensemble.answers import ensemble_predictions, mean_kl
from compressor.fusion import fuse_models
from compressor.fusion.build.pilots import PilotScorer
from compressor.fusion.build.served_parts import LEAST_PART, ServedParts
from compressor.fusion.build.student import PILOT_RIDGE, BuildOptions
from compressor.fusion.joint.candidates import MapCandidate, handicapped
from compressor.recipe import FusionOptions
from compressor.report.describe import describe_shapes

CLASSES = 4


class TableForCausalLM(nn.Module):
    """Predicts what a table says of each token."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.table, self.config = logits, SimpleNamespace(is_encoder_decoder=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"logits": self.table[input_ids]}


def expert(*known: int) -> TableForCausalLM:
    """Sure of the class of the tokens that it knows, vague elsewhere."""
    return TableForCausalLM(torch.stack([6.0 * torch.eye(CLASSES)[t] * (t in known) for t in range(CLASSES)]))


def batches(first: int, second: int, length: int = 5) -> list[dict[str, torch.Tensor]]:
    """Samples of the first expert's tokens and of the second's."""
    rows = torch.cat([torch.randint(2, (first, length)), torch.randint(2, 4, (second, length))])
    return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in rows.split(7)]


EXPERTS = [expert(0, 1), expert(2, 3)]


def judged(samples: list[dict[str, torch.Tensor]], models: list[TableForCausalLM] = EXPERTS) -> ServedParts:
    return ServedParts.of(models, [0.5, 0.5], samples, 1.0)


def test_parts_are_whose_samples_they_are() -> None:
    parts = judged(batches(20, 12))
    assert parts.parts.tolist() == [0] * 20 + [1] * 12
    assert parts.judged == (0, 1)


def test_of_language_models_next_tokens_say_whose_samples_they_are() -> None:
    samples = batches(20, 12)
    # One repeats its own tokens and knows it; the other is as sure of everything, and wrong elsewhere.
    boastful = TableForCausalLM(8.0 * torch.eye(CLASSES)[[2, 3, 2, 3]])
    repeated = [{**batch, "input_ids": batch["input_ids"][:, :1].expand(-1, 5)} for batch in samples]
    parts = ServedParts.of([EXPERTS[0], boastful], [0.5, 0.5], repeated, 1.0, next_tokens=True)
    assert parts.parts[:20].tolist() == [0] * 20
    assert set(judged(repeated, [EXPERTS[0], boastful]).parts.tolist()) == {1}


def test_a_student_that_forgot_the_smaller_part_ranks_behind_one_that_serves_both() -> None:
    samples = batches(60, 10)
    parts = judged(samples)
    ensemble = ensemble_predictions(EXPERTS, [0.5, 0.5], {"input_ids": torch.arange(CLASSES)[None]})[0]
    forgetful = TableForCausalLM(ensemble * torch.tensor([[1.0], [1.0], [0.0], [0.0]]))
    fair = TableForCausalLM(0.5 * ensemble)
    # The mean alone prefers the one that forgot.
    assert mean_kl(forgetful, samples, parts.targets) < mean_kl(fair, samples, parts.targets)
    assert parts.score(fair) < parts.score(forgetful)


@pytest.mark.parametrize("second", [0, LEAST_PART - 1])
def test_a_part_of_few_samples_is_not_judged_on_its_own(second: int) -> None:
    samples = batches(20, second)
    parts = judged(samples)
    assert parts.judged == ()
    assert parts.score(EXPERTS[0]) == pytest.approx(mean_kl(EXPERTS[0], samples, parts.targets))


def test_teachers_that_agree_have_no_parts() -> None:
    samples, twin = batches(20, 20), TableForCausalLM(EXPERTS[0].table + 0.1)
    parts = judged(samples, [EXPERTS[0], twin])
    assert parts.judged == ()
    assert parts.score(EXPERTS[1]) == pytest.approx(mean_kl(EXPERTS[1], samples, parts.targets))


def test_teachers_without_weight_have_no_part() -> None:
    parts = ServedParts.of(EXPERTS, [1.0, 0.0], batches(20, 20), 1.0)
    assert set(parts.parts.tolist()) == {0}
    assert parts.judged == ()


def test_padding_does_not_count() -> None:
    samples = batches(12, 12)
    parts, model = judged(samples), expert(0, 2)
    padded = [
        {
            "input_ids": torch.cat([batch["input_ids"], torch.full((len(batch["input_ids"]), 3), 3)], 1),
            "attention_mask": torch.cat([batch["attention_mask"], torch.zeros(len(batch["input_ids"]), 3).long()], 1),
        }
        for batch in samples
    ]
    assert judged(padded).parts.tolist() == parts.parts.tolist()
    assert judged(padded).score(model) == pytest.approx(parts.score(model))


def test_a_student_of_nan_is_the_worst() -> None:
    assert judged(batches(9, 9)).score(TableForCausalLM(torch.full((4, 4), float("nan")))) == float("inf")


def test_the_report_names_the_measure() -> None:
    config = config_of("vit")
    samples = batches_of(config, count=2)
    models = [tiny_model(config, seed) for seed in (0, 1)]
    teachers = [SimpleNamespace(model=model, weight=0.5) for model in models]
    scorer = PilotScorer(teachers, samples, SimpleNamespace(output=None))
    assert scorer.measure == "held_out_kl"
    targets = [ensemble_predictions(models, [0.5, 0.5], batch) for batch in samples]
    student = SimpleNamespace(model=models[0])
    assert scorer(student) == pytest.approx(mean_kl(models[0], samples, targets))
    for model, sign in zip(models, (1, -1), strict=True):
        # Sure of the opposite.
        model.classifier.weight.data *= sign * 1e3
        model.classifier.bias.data *= sign * 1e3
    apart = PilotScorer(teachers, samples, SimpleNamespace(output=None))
    assert (apart.measure == "held_out_kl_and_worst") == (len(apart.parts.judged) > 1)
    assert "worst-served" in describe_shapes([{"candidate": "4 heads", "held_out_kl_and_worst": 0.2}])


def test_heads_of_pilots_are_fitted_where_teachers_disagree(monkeypatch) -> None:
    config = config_of("llama")
    models = [tiny_model(config, seed) for seed in (0, 1)]
    for model in models:
        model.lm_head.weight.data *= 8
    samples = batches_of(config, count=8, batch=64)
    named = [(f"teacher {k}", model) for k, model in enumerate(models)]
    options = FusionOptions(
        residual="principal", inner="importance", weights=(1.0, 1.0), mixture="probabilities", effort="thorough"
    )
    fitted = shapes_of(fuse_models(named, 0.5, samples, options).report)
    monkeypatch.setattr(BuildOptions, "of_pilot", lambda self, *, head: replace(self, ridges=(PILOT_RIDGE,)))
    unfitted = shapes_of(fuse_models(named, 0.5, samples, options).report)
    assert fitted and fitted.keys() == unfitted.keys()
    assert all(fitted[shape] < unfitted[shape] for shape in fitted)


def shapes_of(report) -> dict[str, float]:
    return {entry["candidate"]: entry["held_out_kl_and_worst"] for entry in report["choice"]["shapes"]}


@pytest.mark.parametrize(("disagree", "wins"), [(True, "common"), (False, "single")])
def test_one_teachers_coordinates_must_be_clearly_better_where_teachers_disagree(disagree, wins) -> None:
    common = MapCandidate("readers", (0.5, 0.5), "select", "common")
    single = MapCandidate("readers", (1.0, 0.0), "select", "single")
    scorer = SimpleNamespace(teachers_disagree=disagree)
    scores = {common: 0.30, single: 0.28}
    assert min(scores, key=lambda each: handicapped(scores[each], each, common, scorer)).label == wins
    scores[single] = 0.25
    assert min(scores, key=lambda each: handicapped(scores[each], each, common, scorer)).label == "single"
