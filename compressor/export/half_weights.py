"""A model's folder in bfloat16 or float16, for transformers and for servers that load such folders."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.errors import ParityError
from compressor.export.graphs import no_cache, outputs_of
from compressor.models.folder.weights import load_model
from compressor.models.inputs import dummy_inputs
from compressor.utils.logging import one_line, quiet_transformers

#: Larger than every model: one file, whose name is that of the format.
_ONE_FILE = "100TB"


def write_half_weights(model: PreTrainedModel, path: Path, dtype: torch.dtype) -> None:
    """Write config and weights of `dtype` next to each other; `path` is `model.safetensors` in a folder of its own."""
    rounded = copy.deepcopy(model)
    rounded = rounded.bfloat16() if dtype == torch.bfloat16 else rounded.half()
    with quiet_transformers():
        rounded.save_pretrained(path.parent, max_shard_size=_ONE_FILE)


class HalfModel:
    """A written folder, opened by transformers in the precision of its files; a `Runnable`.

    torch rounds every result to that precision and overflows where a GPU would.

    Raises:
        ParityError: transformers cannot load it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._model = load_model(self.path.parent, dtype="auto")
        except Exception as error:
            raise ParityError(f"{path} is not a model that transformers loads: {one_line(error)}") from error
        inputs = dummy_inputs(self._model.config, 1)
        #: Name to shape, of an example.
        self.inputs: dict[str, list[int | str | None]] = {name: list(value.shape) for name, value in inputs.items()}
        self.outputs: tuple[str, ...] = tuple(self.run(inputs))

    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs in float32, by name."""
        dtype = self._model.dtype
        inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}
        with torch.inference_mode():
            output = self._model(**inputs, **no_cache(self._model), return_dict=True)
        return {name: value.float() for name, value in outputs_of(self._model, output).items()}

    def empty_past(self, batch: int) -> dict[str, Tensor]:
        """Empty: there is no past."""
        return {}
