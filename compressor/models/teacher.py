"""A teacher: a loaded model with its preprocessor, and its spec: the model's task and the inputs that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.models.inputs import is_audio_config, is_image_config, pad_id
from compressor.models.meta import most_positions, reads_pairs
from compressor.models.resolve import ModelSource
from compressor.models.tasks import Task, find_task


@dataclass(frozen=True)
class ModelSpec:
    """The task of a model and the inputs that it reads, by its config.

    Attributes:
        config: the model's.
        task: of its head.
    """

    config: PretrainedConfig
    task: Task

    @classmethod
    def of(cls, config: PretrainedConfig) -> ModelSpec:
        """The spec of a config.

        Raises:
            UnsupportedError: the config names no class, or one whose task is not known.
        """
        return cls(config, find_task(config))

    @property
    def is_image(self) -> bool:
        """Whether the model reads images."""
        return is_image_config(self.config)

    @property
    def reads(self) -> str:
        """The kind of data that the model reads: "image" or "text".

        Raises:
            UnsupportedError: it is another.
        """
        if self.is_image:
            return "image"
        if getattr(self.config, "vocab_size", None) is None or is_audio_config(self.config):
            raise UnsupportedError(f"data of {self.config.model_type} models cannot be read yet: images and text can")
        return "text"

    @cached_property
    def max_length(self) -> int | None:
        """Tokens of the longest text that the model can read; None without a limit."""
        return most_positions(self.config)

    @cached_property
    def reads_pairs(self) -> bool:
        """Whether the model tells the two texts of a pair apart by `token_type_ids`."""
        return reads_pairs(self.config)

    @property
    def pad_id(self) -> int:
        """The token that pads shorter samples of a batch."""
        return pad_id(self.config)

    @property
    def labels(self) -> dict[int, str]:
        """Names of the classes, by number."""
        return {int(index): str(name) for index, name in (self.config.id2label or {}).items()}


@dataclass(frozen=True)
class Teacher:
    """A loaded model: frozen, float32, in eval mode.

    Attributes:
        name: as the user wrote it.
        source: where it comes from.
        model: the model.
        spec: its task and inputs.
        processor: image processor or tokenizer; None if it comes without one.
        fingerprint: sha256 of class, config and weights.
        notes: lines for the user on weights that were left out and code that was not run.
    """

    name: str
    source: ModelSource
    model: PreTrainedModel
    spec: ModelSpec
    processor: Any | None
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> PretrainedConfig:
        """The model's config."""
        return self.spec.config
