"""A loaded model with its preprocessor, task and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.models.inputs import pad_id
from compressor.models.meta import most_positions, reads_pairs
from compressor.models.modalities import is_image_config, reads_sound
from compressor.models.resolve import ModelSource
from compressor.models.tasks.table import find_task
from compressor.models.tasks.task import Task


@dataclass(frozen=True)
class ModelSpec:
    """A model's task and inputs, by its config."""

    config: PretrainedConfig
    task: Task

    @classmethod
    def of(cls, config: PretrainedConfig) -> ModelSpec:
        """The spec of a config.

        Raises:
            UnsupportedError: as `find_task`.
        """
        return cls(config, find_task(config))

    @property
    def is_image(self) -> bool:
        """Whether the model reads images."""
        return is_image_config(self.config)

    @property
    def reads(self) -> str:
        """Kind of input: "image" (perhaps with texts), "audio" or "text".

        Raises:
            UnsupportedError: another kind.
        """
        if self.is_image or self.task.answers == "pairs":
            return "image"
        if reads_sound(self.config):
            return "audio"
        if getattr(self.config, "vocab_size", None) is None:
            raise UnsupportedError(
                f"data of {self.config.model_type} models cannot be read yet: images, sounds and text can"
            )
        return "text"

    @cached_property
    def max_length(self) -> int | None:
        """Tokens of the longest text, if limited."""
        return most_positions(self.config)

    @cached_property
    def reads_pairs(self) -> bool:
        """Whether `token_type_ids` distinguish the texts of a pair."""
        return reads_pairs(self.config)

    @property
    def pad_id(self) -> int:
        """Token of padding."""
        return pad_id(self.config)

    @property
    def labels(self) -> dict[int, str]:
        """Class names by number."""
        return {int(index): str(name) for index, name in (self.config.id2label or {}).items()}


@dataclass(frozen=True)
class Teacher:
    """A loaded model: frozen, float32, in eval mode.

    Attributes:
        name: as the user wrote it.
        processor: image processor, feature extractor of sounds (with a tokenizer) or tokenizer, if any.
        fingerprint: sha256 of class, config and weights.
        notes: on weights left out, code not run and classes matched.
        lacking: numbers of classes that the model's head lacked, and that have rows now.
        precision: of the stored weights.
    """

    name: str
    source: ModelSource
    model: PreTrainedModel
    spec: ModelSpec
    processor: Any | None
    fingerprint: str
    notes: tuple[str, ...] = ()
    lacking: tuple[int, ...] = ()
    precision: torch.dtype = torch.float32

    @property
    def config(self) -> PretrainedConfig:
        """The model's config."""
        return self.spec.config
