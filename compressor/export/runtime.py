"""Running exported files; ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Protocol

import onnx
import onnxruntime
import torch
from torch import Tensor

from compressor.errors import ParityError
from compressor.utils.logging import one_line


class Runnable(Protocol):
    """An open exported file."""

    path: Path
    #: Name to shape; a dynamic axis is its name, or None.
    inputs: dict[str, list[int | str | None]]
    outputs: tuple[str, ...]

    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; ignores unknown inputs."""

    def empty_past(self, batch: int) -> dict[str, Tensor]:
        """Past keys and values of no tokens."""


PAST_PREFIX = "past_key_values."
#: Input of a merged decoder: whether there is a past.
USE_CACHE = "use_cache_branch"


def with_one_text(values: Mapping[str, Tensor], inputs: Container[str]) -> dict[str, Tensor]:
    """Values with the `token_type_ids` of a single text, if an input."""
    values = dict(values)
    if "token_type_ids" in inputs and "input_ids" in values:
        values.setdefault("token_type_ids", torch.zeros_like(values["input_ids"]))
    return values


class Session:
    """A checked ONNX file, open in ONNX Runtime.

    Raises:
        ParityError: it is invalid, or ONNX Runtime refuses it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Errors are raised, not logged too.
        options.log_severity_level = 4
        try:
            onnx.checker.check_model(str(path), full_check=True)
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # Both libraries raise errors of many classes on a broken file.
        except Exception as error:
            raise ParityError(f"{path} is not an ONNX file that runs: {one_line(error)}") from error
        #: Name to shape; a dynamic axis is its name, or None.
        self.inputs: dict[str, list[int | str | None]] = {
            value.name: list(value.shape) for value in self._session.get_inputs()
        }
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; ignores unknown inputs, and begins a text where there is no past.

        Raises:
            ParityError: the file does not run, or takes inputs of other sizes alone.
        """
        values = self._completed(values)
        inputs = {name: value.detach().contiguous().numpy() for name, value in values.items() if name in self.inputs}
        for name, value in inputs.items():
            self._check_sizes(name, value.shape)
        try:
            outputs = self._session.run(None, inputs)
        except Exception as error:
            sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            raise ParityError(f"{self.path} does not run in ONNX Runtime on {sizes}: {one_line(error)}") from error
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, outputs, strict=True)}

    def _check_sizes(self, name: str, sizes: tuple[int, ...]) -> None:
        """Refuse an input that the file, as it was traced, cannot take."""
        taken = self.inputs[name]
        if any(isinstance(one, int) and one != other for one, other in zip(taken, sizes, strict=False)):
            raise ParityError(
                f"{self.path.name} takes {name} of {'×'.join(map(str, taken))} alone, and there are samples of "
                f"{'×'.join(map(str, sizes))}: leave out the formats that need samples, or --data"
            )

    def empty_past(self, batch: int) -> dict[str, Tensor]:
        """Past keys and values of no tokens."""
        return {
            name: torch.zeros(batch, *(size if isinstance(size, int) else 0 for size in shape[1:]))
            for name, shape in self.inputs.items()
            if name.startswith(PAST_PREFIX)
        }

    def _completed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values with what the beginning of a single text leaves out."""
        values = with_one_text(values, self.inputs)
        has_past = any(name.startswith(PAST_PREFIX) for name in values)
        values.setdefault(USE_CACHE, torch.tensor([has_past]))
        if "input_ids" not in values or has_past:
            return values
        ids = values["input_ids"]
        mask = values.get("attention_mask", torch.ones_like(ids))
        beginning = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        return {**beginning, **self.empty_past(len(ids)), **values}
