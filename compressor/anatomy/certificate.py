"""The certificate: permuted spaces leave every answer unchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PretrainedConfig

from compressor.anatomy.axes import Space
from compressor.anatomy.batch_norms import fold_statistics
from compressor.anatomy.hooks import all_outputs, feature_place
from compressor.anatomy.permutations import random_permutations
from compressor.anatomy.resize import BUILD_ERRORS
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.transform import Map, apply
from compressor.errors import CertificateError
from compressor.models.configs.reading import model_class
from compressor.models.headless.pooler import without_pooler
from compressor.models.inputs import classifies_text, pad_id, text_config
from compressor.models.ties import untie
from compressor.utils.logging import one_line, quiet_transformers

#: Largest relative change of the logits that still counts as unchanged.
CERTIFICATE_TOLERANCE = 1e-5
#: Draws of joint permutations.
_SEEDS = (1, 2)
#: Larger answers are masks, not answers.
_MASKED = 1e5

#: Inputs of one forward pass, or of several.
Inputs = Mapping[str, Tensor]
Trials = Inputs | Sequence[Inputs]


def random_model(config: PretrainedConfig, seed: int = 0) -> nn.Module:
    """A float64 model with noise: zeros and ones hide permutations."""
    with quiet_transformers(errors=False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = copy.deepcopy(config)
        # Expert kernels do not take float64, and fused attention cannot be traced.
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        text = text_config(config)
        if config.architectures and classifies_text(config) and getattr(text, "pad_token_id", None) is None:
            # Decoders classify several texts by it; which token it is changes no axis.
            text.pad_token_id = pad_id(text)
        model = untie(without_pooler(model_class(config)(config))).double().eval()
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() == 1 else 0.3 * parameter.std().nan_to_num(1.0).clamp(min=0.1)
            parameter.data += scale * torch.randn_like(parameter)
        stored = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            # Trained values that are no parameters (running statistics, biases of routers) must not hide permutations.
            if name in stored and buffer.is_floating_point():
                buffer += 0.3 * torch.rand_like(buffer)
        fold_statistics(model)
    return model.requires_grad_(False)


def as_trials(trials: Trials) -> Sequence[Inputs]:
    """The inputs of several passes."""
    return [trials] if isinstance(trials, Mapping) else trials


def answers_of(model: nn.Module, trials: Trials) -> list[dict[str, Tensor]]:
    """Each trial's outputs."""
    with torch.no_grad():
        return [all_outputs(model, inputs) for inputs in as_trials(trials)]


def functional_answers(model: nn.Module, state: Mapping[str, Tensor], inputs: Inputs) -> dict[str, Tensor]:
    """Outputs under other weights."""
    weights = {f"model.{name}": value for name, value in state.items()}
    with torch.no_grad():
        return functional_call(_Answers(model), weights, (inputs,))


def logits_change(
    model: nn.Module,
    trials: Trials,
    state: Mapping[str, Tensor],
    outputs: Mapping[str, Map] | None = None,
    before: Sequence[Mapping[str, Tensor]] | None = None,
) -> float:
    """Largest relative change of any answer under other weights.

    `outputs` maps outputs that are spaces, of headless models; `before`: the model's own answers.
    """
    before = answers_of(model, trials) if before is None else before
    changes = [0.0]
    for inputs, answers in zip(as_trials(trials), before, strict=True):
        after = functional_answers(model, state, inputs)
        for name, answer in answers.items():
            moved = _moved(answer, outputs[name]) if outputs and name in outputs else answer
            changes.append(_relative_change(moved, after[name]))
    return max(changes, key=lambda change: change if change == change else float("inf"))


def _moved(answer: Tensor, mapping: Map) -> Tensor:
    """Features in the order of a map."""
    place = feature_place(answer)
    return (answer.movedim(place, -1) @ mapping.push.to(answer)).movedim(-1, place)


def is_compared(answer: Tensor) -> Tensor:
    """Which entries are answers, and no masks."""
    return answer.isfinite() & (answer.abs() < _MASKED)


def _relative_change(before: Tensor, after: Tensor) -> float:
    """Relative to the largest answer; answers that are masked stay so."""
    if before.shape != after.shape:
        return float("inf")
    counted = is_compared(before)
    if not counted.any():
        return 0.0
    before, after = before[counted], after[counted]
    return float((after - before).abs().max() / before.abs().max().clamp(min=1e-30))


class _Answers(nn.Module):
    """Outputs as a function of inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        return all_outputs(self.model, inputs)


def permutation_error(
    model: nn.Module,
    trials: Trials,
    anatomy: Anatomy,
    spaces: Iterable[Space],
    seed: int = 1,
    before: Sequence[Mapping[str, Tensor]] | None = None,
) -> float:
    """Relative change of answers under a permutation."""
    generator = torch.Generator().manual_seed(seed)
    maps = random_permutations(spaces, generator)
    names = [
        name for name, axes in anatomy.axes.items() if any(part.key in maps for axis in axes for part in axis.parts)
    ]
    state = apply(maps, dict(model.named_parameters()), anatomy, names)
    outputs = {name: maps[space] for name, space in anatomy.outputs.items() if space in maps}
    return logits_change(model, trials, state, outputs, before)


def certify(model: nn.Module, inputs: Trials, anatomy: Anatomy, seed: int = 1) -> dict[str, float]:
    """{space or "all": relative change of answers}; spaces of one order move together.

    Args:
        inputs: of one forward pass, or of several; the largest change counts.

    Raises:
        CertificateError: a permutation cannot be applied or run; names the space.
    """
    spaces = list(anatomy.spaces.values())
    before = answers_of(model, inputs)
    groups = {
        space.name: [alike for alike in spaces if alike is space or (space.order and alike.order == space.order)]
        for space in spaces
    }
    errors = {}
    for name, together in (groups | {"all": spaces}).items():
        try:
            errors[name] = permutation_error(model, inputs, anatomy, together, seed, before)
        except BUILD_ERRORS as error:
            place = "all spaces together" if name == "all" else f"{name} ({_parameters_of(anatomy, name)})"
            raise CertificateError(_failure(anatomy, place, error)) from error
    return errors


def certify_jointly(model: nn.Module, inputs: Trials, anatomy: Anatomy) -> dict[str, float]:
    """{"all": relative change of answers} when all spaces move at once, by two draws of independent permutations.

    A wrong space among right ones shows as well as alone, at a fraction of the passes; `certify` says which one it is.

    Raises:
        CertificateError: a permutation cannot be applied or run.
    """
    before, spaces = answers_of(model, inputs), list(anatomy.spaces.values())
    try:
        errors = [permutation_error(model, inputs, anatomy, spaces, seed, before) for seed in _SEEDS]
    except BUILD_ERRORS as error:
        raise CertificateError(_failure(anatomy, "all spaces together", error)) from error
    return {"all": max(errors, key=lambda error: error if error == error else float("inf"))}


def _failure(anatomy: Anatomy, place: str, error: Exception) -> str:
    return (
        f"{anatomy.model_class}: permuting {place} fails ({type(error).__name__}: {one_line(error, 120)}); this "
        f"architecture is not understood, so nothing was touched"
    )


def _parameters_of(anatomy: Anatomy, space: str) -> str:
    return ", ".join(anatomy.parameters_of(space)[:4]) or "no parameters"
