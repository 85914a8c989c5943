"""Weights and activations that nothing can be computed from: NaN, infinity, and numbers no trained model has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compressor.errors import UserError
from compressor.models.inputs import dummy_inputs
from compressor.utils.logging import one_line
from compressor.utils.out_of_memory import is_out_of_memory

#: The largest weight or activation. Trained models stay far below (the outliers of large language models reach some
#: 10⁵); sums of squares of anything larger soon leave the range of float32, which ends at 3.4 · 10³⁸.
LARGEST = 1e12
#: Modules that put out numbers of an ordinary size, beside norms of any class.
_ARITHMETIC = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, Conv1D)
#: Tokens of the text that a model is tried on.
_LENGTH = 4


def check_weights(name: str, model: PreTrainedModel) -> None:
    """Refuse weights that nothing can be computed from.

    Args:
        name: the model, for the message.
        model: the model.

    Raises:
        UserError: a weight is NaN, infinite or larger than `LARGEST`; names the first one.
    """
    trained = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    for key, tensor in model.state_dict().items():
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
    """Run a model once on a random sample and refuse it where its activations cannot be computed with.

    Args:
        name: the model, for the message.
        model: in eval mode; left as it was.

    Raises:
        UserError: what a linear module, an embedding or a norm puts out, or the answer, is NaN, infinite or larger than
            `LARGEST`, and names the first such module; or the model cannot be run.
    """
    with torch.no_grad(), _watched(name, model):
        try:
            _check_output(name, "the whole model", next(iter(model(**_sample(model.config, model.device)).values())))
        except UserError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Its code is known to run: what is wrong is a field of the config that only shows now.
            raise UserError(f"cannot run {name} on a random sample, by its config: {one_line(error)}") from error


def check_hidden(name: str, place: str, hidden: Tensor) -> None:
    """Refuse activations of calibration data that cannot be computed with.

    Args:
        name: the teacher.
        place: the module that put them out.
        hidden: any tensor.

    Raises:
        UserError: they are NaN, infinite or larger than `LARGEST`.
    """
    if not hidden.is_floating_point() or not hidden.numel():
        return
    largest = magnitude(hidden)
    if not largest <= LARGEST:
        said = f"as large as {largest:.0e}" if largest < float("inf") else "NaN or infinite"
        raise UserError(
            f"nothing can be computed with {name}: the activations of {place} are {said}; its weights are broken or "
            "far too large"
        )


def magnitude(values: Tensor) -> float:
    """The largest absolute value of a tensor that is not empty; NaN if any is."""
    low, high = values.detach().aminmax()
    return max(abs(float(low)), abs(float(high))) if low == low else float("nan")


def _sample(config: PretrainedConfig, device: torch.device) -> dict[str, Tensor]:
    return dummy_inputs(config, batch=1, length=_LENGTH, device=device)


@contextmanager
def _watched(name: str, model: nn.Module) -> Iterator[None]:
    """Check what every linear module, embedding and norm puts out; masks and routers may put out infinity."""

    def watch(place: str) -> Callable[..., None]:
        return lambda _, __, output: _check_output(name, place, output)

    handles = [
        module.register_forward_hook(watch(place))
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
