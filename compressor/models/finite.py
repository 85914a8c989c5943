"""Refusing unusable weights and activations: NaN, infinite or larger than `LARGEST`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compressor.errors import UserError
from compressor.models.inputs import dummy_inputs
from compressor.models.streamed import weights_of
from compressor.utils.logging import one_line
from compressor.utils.out_of_memory import is_out_of_memory

#: The largest weight or activation. Trained models stay far below (the outliers of large language models reach some
#: 10⁵); sums of squares of anything larger soon leave the range of float32, which ends at 3.4 · 10³⁸.
LARGEST = 1e12
#: Modules with outputs of ordinary size; so have norms of any class.
_ARITHMETIC = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, Conv1D)
#: Tokens of the random text.
_LENGTH = 4


def check_finite_weights(name: str, model: PreTrainedModel) -> None:
    """Refuse unusable weights.

    Raises:
        UserError: names the first.
    """
    trained = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    for key, tensor in weights_of(model).items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        largest = magnitude(tensor)
        if largest != largest or largest == float("inf"):
            raise UserError(f"the weights of {name} are broken: {key} holds NaN or infinity")
        if key in trained and largest > LARGEST:
            raise UserError(
                f"the weights of {name} are broken: {key} holds {largest:.0e}, and no trained weight is so large"
            )


def check_activations(name: str, model: PreTrainedModel) -> None:
    """Run a model once on a random sample and refuse unusable activations.

    Args:
        model: in eval mode; unchanged.

    Raises:
        UserError: names the first such module; or it cannot run.
    """
    with torch.no_grad(), _checked_modules(name, model):
        try:
            sample = dummy_inputs(model.config, batch=1, length=_LENGTH, device=model.device)
            _check_output(name, "the whole model", next(iter(model(**sample).values())))
        except UserError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # The class is known to run: a field of the config must be wrong.
            raise UserError(f"cannot run {name} on a random sample, by its config: {one_line(error)}") from error


def check_hidden(name: str, place: str, hidden: Tensor) -> None:
    """Refuse unusable activations.

    Raises:
        UserError: names teacher and place.
    """
    if not hidden.is_floating_point() or not hidden.numel():
        return
    largest = magnitude(hidden)
    if not largest <= LARGEST:
        problem = f"as large as {largest:.0e}" if largest < float("inf") else "NaN or infinite"
        raise UserError(
            f"nothing can be computed with {name}: the activations of {place} are {problem}; its weights are broken or "
            "far too large"
        )


def magnitude(values: Tensor) -> float:
    """Largest absolute value; NaN if any is."""
    low, high = values.detach().aminmax()
    return max(abs(float(low)), abs(float(high))) if low == low else float("nan")


@contextmanager
def _checked_modules(name: str, model: nn.Module) -> Iterator[None]:
    """Check outputs of linear modules, embeddings and norms; masks and routers may be infinite."""

    def checker(place: str) -> Callable[..., None]:
        return lambda _, __, output: _check_output(name, place, output)

    handles = [
        module.register_forward_hook(checker(place))
        for place, module in model.named_modules()
        if type(module) in _ARITHMETIC or type(module).__name__.endswith("Norm")
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_output(name: str, place: str, output: Any) -> None:
    for value in output if isinstance(output, Sequence) and not isinstance(output, str) else (output,):
        if isinstance(value, Tensor):
            check_hidden(name, place, value)
