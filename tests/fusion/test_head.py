"""The head is fitted to the ensemble's probabilities where held-out samples gain by it, and left alone elsewhere."""

import pytest
import torch
from families import batches_of, config_of, family_params, tiny_model, widen

from compressor.ensemble.answers import ensemble_predictions, mean_kl
from compressor.fusion import fuse_models
from compressor.fusion.build import head, logistic, pilots
from compressor.fusion.build.logistic import FreeHead, HeadData, fit_logistic
from compressor.fusion.calibration import batches as samples
from compressor.fusion.calibration.processes import ALONE
from compressor.recipe import FusionOptions

PLAIN = FusionOptions(residual="principal")


@pytest.fixture(scope="module")
def decided():
    """Teachers that prefer some class, samples, new samples with the ensemble's answers, and the student."""
    teachers = [(str(seed), tiny_model(config_of("llama"), seed)) for seed in (0, 1)]
    models = [model for _, model in teachers]
    for model in models:
        # Random teachers hardly prefer any class, and then least squares is as good.
        model.lm_head.weight.data *= 8
    batches = batches_of(config_of("llama"), 16, 32)
    new = batches_of(config_of("llama"), 4, 32, first_seed=900)
    wanted = [ensemble_predictions(models, [0.5, 0.5], batch) for batch in new]
    return teachers, batches, new, wanted, fuse_models(teachers, 0.5, batches, PLAIN)


@pytest.mark.parametrize("family", family_params(("llama", "gpt2", "opt", "gemma2"), fast=("llama",)))
def test_held_out_samples_gain(family):
    teachers = [(str(seed), tiny_model(config_of(family), seed)) for seed in (0, 1)]
    report = fuse_models(teachers, 0.5, batches_of(config_of(family), 8, 32), PLAIN).report
    assert report["head"] is None or report["head"]["kl"] < report["head"]["least_squares_kl"]


def test_new_samples_gain_too(decided):
    teachers, batches, new, wanted, fitted = decided
    # Without held-out samples there is nothing to stop by, and the head keeps its least squares.
    plain = fuse_models(teachers, 0.5, batches, PLAIN, holdout=0.0)
    assert fitted.report["head"] is not None
    assert mean_kl(fitted.model, new, wanted) < mean_kl(plain.model, new, wanted)


@pytest.mark.slow
def test_few_tokens_do_not_fit_a_head(decided, monkeypatch):
    teachers, batches, _, _, fitted = decided
    assert fitted.report["head"] is not None
    # 6,144 tokens for 16 inputs.
    monkeypatch.setattr(head, "TOKENS_PER_INPUT", 385)
    assert fuse_models(teachers, 0.5, batches, PLAIN).report["head"] is None


def test_an_exact_student_is_left_alone():
    narrow = tiny_model(config_of("llama"))
    options = FusionOptions(residual="barycentre", inner="transport")
    assert fuse_models([("wide", widen(narrow, 1))], 0.5, batches_of(narrow.config), options).report["head"] is None


@pytest.mark.parametrize("tied", [True, False])
def test_a_bias_of_the_head_is_not_taken_for_the_norm_before_it(tied):
    """BERT's decoder has a bias under another name: of one teacher at width 1 the student is the teacher."""
    from transformers import BertConfig

    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=60,
        max_position_embeddings=32, architectures=["BertForMaskedLM"], tie_word_embeddings=tied,
    )  # fmt: skip
    teacher = tiny_model(config, 1)
    with torch.no_grad():
        teacher.cls.predictions.bias.copy_(torch.randn(60, generator=torch.Generator().manual_seed(0)))
    tokens = torch.randint(60, (12, 16, 8), generator=torch.Generator().manual_seed(1))
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in tokens]
    student = fuse_models([("one", teacher)], 1.0, batches[:10], FusionOptions(inner="transport")).model
    with torch.no_grad():
        wanted, found = teacher(**batches[11]).logits, student(**batches[11]).logits
    assert float((wanted - found).abs().max() / wanted.abs().max()) < 1e-4


@pytest.mark.slow
def test_logits_that_are_no_multiple_of_the_heads_outputs_are_left_alone():
    config = config_of("gemma2")
    config.final_logit_softcapping = 0.5
    teachers = [(str(seed), tiny_model(config, seed)) for seed in (0, 1)]
    assert fuse_models(teachers, 0.5, batches_of(config), PLAIN).report["head"] is None


@pytest.mark.slow
def test_students_without_a_head_have_none_to_fit():
    config = config_of("llama")
    config.architectures = ["LlamaModel"]
    teachers = [(str(seed), tiny_model(config, seed)) for seed in (0, 1)]
    report = fuse_models(teachers, 0.5, batches_of(config), PLAIN).report
    assert report["head"] is None and torch.isfinite(torch.tensor(report["fits"][0]["error"]))


def test_a_head_does_not_live_on_the_last_digits_of_its_inputs():
    """Of inputs that nearly depend on each other, as a pooler's do, the rest is lost in float16 and int8."""
    made = torch.Generator().manual_seed(0)
    few = torch.randn(600, 4, generator=made)
    inputs = few @ torch.randn(4, 16, generator=made) + 1e-4 * torch.randn(600, 16, generator=made)
    # What is left to gain is in those digits alone.
    hidden = 1e4 * (inputs - few @ torch.linalg.lstsq(few, inputs).solution)[:, :1]
    plain = torch.randn(4, 2, generator=made)
    wanted = (few @ plain + 0.3 * torch.cat([hidden, -hidden], dim=1)).softmax(-1)
    weight = (torch.linalg.pinv(inputs, rtol=1e-2) @ (few @ plain)).T.contiguous()
    answers, held_out = HeadData(inputs[:500], wanted[:500]), HeadData(inputs[500:], wanted[500:])
    free = FreeHead.of(weight, torch.zeros(2), answers, ALONE, transposed=False)
    before, after, change = fit_logistic(free, answers, held_out, 1.0)
    assert after <= before
    noise = 0.01 * inputs.square().mean().sqrt() * torch.randn(inputs.shape, generator=made)
    logits = free.logits(change, inputs)
    assert (free.logits(change, inputs + noise) - logits).norm() < 0.05 * logits.norm()


@pytest.mark.parametrize("bias", [None, torch.zeros(7)])
def test_heaps_of_tokens_say_what_all_together_say(bias, monkeypatch):
    made = torch.Generator().manual_seed(0)
    inputs = torch.randn(600, 5, generator=made, dtype=torch.float64)
    wanted = torch.randn(600, 7, generator=made, dtype=torch.float64).softmax(-1)
    weight = torch.randn(7, 5, generator=made, dtype=torch.float64)
    answers, held_out = HeadData(inputs[:500], wanted[:500]), HeadData(inputs[500:], wanted[500:])
    found = []
    for size in (1 << 22, 90):
        monkeypatch.setattr(logistic, "CHUNK_ENTRIES", size)
        free = FreeHead.of(
            weight, bias if bias is None else bias.double(), HeadData(inputs, wanted), ALONE, transposed=False
        )
        found.append(fit_logistic(free, answers, held_out, 2.0))
    (before, after, change), (_, _, again) = found
    assert after < before
    assert torch.allclose(change, again, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_more_tokens_make_a_better_head(decided, monkeypatch):
    """Of many classes a few thousand tokens say too little: as many are taken as the work allows."""
    config = config_of("llama")
    teachers, batches, new, wanted, fitted = decided
    every = mean_kl(fitted.model, new, wanted)
    entries = 16 * 32 * 12 * config.vocab_size * (config.hidden_size // 2)
    monkeypatch.setattr(head, "HEAD_WORK", entries // 32)
    assert every < mean_kl(fuse_models(teachers, 0.5, batches, PLAIN).model, new, wanted)


@pytest.mark.parametrize("family", family_params(("llama", "gpt2", "bert"), fast=("gpt2",)))
def test_logits_of_large_vocabularies_are_never_held_together(family, monkeypatch):
    """Calls are made of few samples, and what is kept of all tokens is what the head reads."""
    config = config_of(family)
    teachers = [(str(seed), tiny_model(config, seed)) for seed in (0, 1)]
    batches = batches_of(config, 4, 16)
    whole = fuse_models(teachers, 0.5, batches, PLAIN)
    classes = whole.model(**batches[0]).logits.shape[-1]
    # Three samples of twelve tokens.
    monkeypatch.setattr(samples, "MOST_CALL_LOGITS", 40 * classes)
    most: list[int] = []
    forward = torch.nn.Linear.forward

    def counted(self, inputs):
        found = forward(self, inputs)
        if found.shape[-1] == classes:
            most.append(found.numel())
        return found

    monkeypatch.setattr(torch.nn.Linear, "forward", counted)
    parts = fuse_models(teachers, 0.5, batches, PLAIN)
    assert max(most) <= 40 * classes
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, parts.model.state_dict()[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.slow
def test_candidates_of_large_vocabularies_are_judged_by_some_of_the_tokens(monkeypatch):
    config = config_of("llama")
    teachers = [(str(seed), tiny_model(config, seed)) for seed in (0, 1)]
    batches = batches_of(config, 8, 16)
    monkeypatch.setattr(samples, "MOST_CALL_LOGITS", 40 * config.vocab_size)
    monkeypatch.setattr(pilots, "MOST_SCORED_LOGITS", 60 * config.vocab_size)
    judged: list[int] = []
    of = pilots.ServedParts.of

    def counted(*arguments, **options):
        parts = of(*arguments, **options)
        judged.append(len(parts.targets))
        return parts

    monkeypatch.setattr(pilots.ServedParts, "of", counted)
    fuse_models(teachers, 0.5, batches)
    assert judged == [2]
