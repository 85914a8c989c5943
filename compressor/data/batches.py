"""A split as model inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from compressor.data.domains import domain_numbers
from compressor.data.samples import Reader, ReadingOptions, Sample, collate
from compressor.data.split import Split
from compressor.data.task_data import TASK_DATA, SplitPreparation
from compressor.errors import UserError
from compressor.models.tasks.table import TASKS
from compressor.models.tasks.task import Task
from compressor.models.teacher import ModelSpec

_NOUNS = {"text": "text", "image": "images", "audio": "sounds"}
#: Overhead of a small tensor, in bytes.
_OVERHEAD = 256


class Batches:
    """A split as batches of model inputs, in its own order; can be iterated repeatedly.

    A batch has `pixel_values` [B, C, H, W] float32, `input_values` or `input_features` of sounds, or `input_ids`,
    `attention_mask` [B, T] and others of the task; with `labels` also `labels`, [B] or [B, T] int64, or [B, C] float32
    of labels that hold and of values.

    Args:
        processor: image processor or tokenizer.
        batch_size: the last batch may be smaller.
        spec: without one, images or texts with one label, unchecked.
        cache_bytes: batches stay in memory if all fit.
        max_length: tokens of a text or block.
        seed: of masked tokens.

    Raises:
        UserError: missing labels, or unfit processor.
    """

    def __init__(
        self,
        split: Split,
        processor: Any,
        batch_size: int,
        *,
        labels: bool,
        spec: ModelSpec | None = None,
        cache_bytes: int = 1 << 30,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        task = TASKS["image-classification" if split.image else "text-classification"] if spec is None else spec.task
        check_processor(split, processor)
        _check_labels(split, task, labels)
        self.split = split = packed(split, processor, spec, max_length)
        self.batch_size = batch_size
        self.task, self._processor = task, processor
        self.labelled = labels
        self._read: Reader = TASK_DATA[task.name].read(split, ReadingOptions(processor, spec, labels, max_length, seed))
        self._pad = 0 if spec is None or split.holds != "text" else spec.pad_id
        self._cache_bytes = cache_bytes
        self._cache: list[dict[str, Tensor]] = []

    @property
    def num_samples(self) -> int:
        """Samples in all batches."""
        return len(self.split)

    @property
    def labels(self) -> Tensor | None:
        """All labels, int64 [N]; None unless each sample has one class."""
        if self.split.label is None or not self.task.one_class:
            return None
        labels = self.split.labels
        return None if labels is None else torch.from_numpy(labels)

    @property
    def references(self) -> Any:
        """By which answers are scored, where labels do not say all; else None."""
        make = TASK_DATA[self.task.name].references
        return None if make is None or not self.labelled else make(self.split, self._processor)

    @property
    def domains(self) -> tuple[list[str], Tensor] | None:
        """Names of the domains, and the number of each sample's, int64 [N]; None without domains."""
        found = domain_numbers(self.split)
        return None if found is None else (found[0], torch.from_numpy(found[1]))

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches.

        Raises:
            UserError: names an unreadable or unfit sample.
        """
        for index in range(len(self)):
            start = index * self.batch_size
            if index < len(self._cache):
                yield dict(self._cache[index])
                continue
            batch = collate(self._read(range(start, min(start + self.batch_size, self.num_samples))), self._pad)
            if index == len(self._cache) and self._fits(batch):
                self._cache.append(dict(batch))
            yield batch

    def _fits(self, batch: dict[str, Tensor]) -> bool:
        return _size(batch) * len(self) <= self._cache_bytes


class Samples:
    """A split as single samples, or several at once (faster), in any order, unpadded.

    Arguments as in `Batches`; `cache_bytes` keeps as many samples as fit.
    """

    def __init__(
        self,
        split: Split,
        processor: Any,
        spec: ModelSpec,
        *,
        labels: bool,
        cache_bytes: int,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        check_processor(split, processor)
        task = spec.task
        _check_labels(split, task, labels)
        self._split = split = packed(split, processor, spec, max_length)
        self._read: Reader = TASK_DATA[task.name].read(split, ReadingOptions(processor, spec, labels, max_length, seed))
        self._processor, self._settings = processor, (task.name, max_length, seed)
        self._cache: dict[int, Sample] = {}
        self._free_bytes = cache_bytes

    @property
    def key(self) -> str:
        """Hash of data and preprocessor, without labels; equal in every process."""
        split = self._split
        columns = (split.image or split.audio, split.text, split.target, split.blocks)
        identity = (split.dataset._fingerprint, columns, data_identity(self._processor), *self._settings)
        return hashlib.sha256(repr(identity).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples, for torch's DataLoader."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._cache]
        loaded = dict(zip(missing, self._read(missing), strict=True)) if missing else {}
        samples = [self._cache.get(index) or loaded[index] for index in indices]
        for index, sample in loaded.items():
            size = _size(sample)
            if size <= self._free_bytes:
                self._free_bytes -= size
                # A view would keep its whole batch in memory.
                self._cache[index] = {name: value.clone() for name, value in sample.items()}
        return samples


def packed(
    split: Split, processor: Any, spec: ModelSpec | None, max_length: int | None, limit: int | None = None
) -> Split:
    """The split as its task prepares it (`TaskData.prepare`): for a language model blocks of tokens.

    Args:
        max_length: tokens of the longest text or block.
        limit: most samples.

    Raises:
        UserError: too little text.
    """
    prepare = None if spec is None else TASK_DATA[spec.task.name].prepare
    if spec is None or prepare is None:
        return split
    check_processor(split, processor)
    return prepare(split, SplitPreparation(processor, spec, max_length, limit))


def check_processor(split: Split, processor: Any) -> None:
    """Refuse an unfit preprocessor.

    Raises:
        UserError: missing, or of the wrong kind.
    """
    if processor is None:
        kind = "tokenizer" if split.holds == "text" else "preprocessor_config.json"
        raise UserError(f"the teacher has no {kind}, so {split.name} cannot be turned into its inputs: add one")
    reads = "text" if hasattr(processor, "get_vocab") else "audio" if _extracts(processor) else "image"
    if reads != split.holds:
        raise UserError(f"{split.name} holds {_NOUNS[split.holds]}, but the teacher reads {_NOUNS[reads]}")


def _extracts(processor: Any) -> bool:
    """Whether it makes features of sounds."""
    return hasattr(getattr(processor, "feature_extractor", processor), "sampling_rate")


def _check_labels(split: Split, task: Task, labels: bool) -> None:
    if labels and task.columns and split.label is None:
        raise UserError(f"{split.name} has no labels: set data.label_column, or go without")


def data_identity(processor: Any) -> str:
    """Settings of a preprocessor, without those of its last call."""
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is not None:
        # Set by each call.
        state = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        return json.dumps([type(processor).__name__, state, repr(processor.init_kwargs)], sort_keys=True)
    if hasattr(processor, "get_vocab"):
        return repr((type(processor).__name__, sorted(processor.get_vocab().items()), processor.init_kwargs))
    return json.dumps([type(processor).__name__, processor.to_dict()], sort_keys=True, default=str)


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes + _OVERHEAD for tensor in tensors.values())
