"""Calibration batches, train and held-out.

A content hash chooses samples, so order, batches and padding do not change the student.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressor.models.inputs import without_labels

Batch = Mapping[str, Tensor]

#: Inputs that are padded, and the mask of each.
_PADDED = {
    "input_ids": "attention_mask",
    "token_type_ids": "attention_mask",
    "position_ids": "attention_mask",
    "decoder_input_ids": "decoder_attention_mask",
    "input_values": "attention_mask",
    "input_features": "attention_mask",
}
_MASKS = frozenset(_PADDED.values())

#: Most logits that one call of a model makes.
MOST_CALL_LOGITS = 1 << 24


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Calibration inputs.

    Attributes:
        held_out: batches that choose between fits; may be empty.
    """

    train: Sequence[Batch]
    held_out: Sequence[Batch] = ()

    @classmethod
    def split(cls, batches: Sequence[Batch], share: float) -> CalibrationSet:
        """Hold out `share` of two or more samples, at least one."""
        keys = [sample_keys(batch) for batch in batches]
        ranked = sorted(key for batch_keys in keys for key in batch_keys)
        if len(ranked) < 2:
            return cls(list(batches))
        limit = ranked[min(len(ranked) - 2, max(0, round(share * len(ranked)) - 1))]
        train = _select(batches, keys, lambda key: key > limit)
        held_out = _select(batches, keys, lambda key: key <= limit)
        return cls(train, held_out) if train else cls(list(batches))

    @cached_property
    def all(self) -> list[Batch]:
        """Train batches, then held-out ones."""
        return [*self.train, *self.held_out]

    def is_held_out(self, index: int, runs: int = 1) -> bool:
        """Whether a (virtual) batch of `all` is held out."""
        return index >= len(self.train) * runs

    def subset(self, samples: int) -> list[Batch]:
        """At most `samples` samples of both parts."""
        return take_samples(self.all, samples)

    def rebatched(self, size: Callable[[Batch], int]) -> CalibrationSet:
        """Each part sorted by key, in batches of `size(batch)`."""
        return CalibrationSet(sorted_by_key(self.train, size), sorted_by_key(self.held_out, size))


def split_large_batches(batches: Sequence[Batch], count_logits: Callable[[Batch], int]) -> list[Batch]:
    """Split batches into calls of at most `MOST_CALL_LOGITS` logits."""
    split: list[Batch] = []
    for batch in batches:
        size = max(1, MOST_CALL_LOGITS // max(1, count_logits({name: value[:1] for name, value in batch.items()})))
        if size >= _size(batch):
            split.append(batch)
            continue
        starts = range(0, _size(batch), size)
        split += [{name: value[start : start + size] for name, value in batch.items()} for start in starts]
    return split


def sample_keys(batch: Batch) -> list[int]:
    """Per sample, a 64-bit hash of its inputs without padding."""
    keys = []
    inputs = without_labels(batch)
    for index in range(len(next(iter(inputs.values())))):
        digest = hashlib.sha1(usedforsecurity=False)
        for name in sorted(inputs.keys() - _MASKS):
            value = inputs[name][index]
            mask = inputs.get(_PADDED.get(name, ""))
            if mask is not None and mask.shape[1:] == value.shape[: mask.dim() - 1]:
                value = value[mask[index].bool()]
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        keys.append(int.from_bytes(digest.digest()[:8], "big"))
    return keys


def take_samples(batches: Sequence[Batch], samples: int) -> list[Batch]:
    """The `samples` samples of the greatest keys."""
    keys = [sample_keys(batch) for batch in batches]
    ranked = sorted((key for batch_keys in keys for key in batch_keys), reverse=True)
    if len(ranked) <= samples:
        return list(batches)
    return _select(batches, keys, lambda key: key >= ranked[samples - 1])


def sorted_by_key(batches: Sequence[Batch], size: Callable[[Batch], int]) -> list[Batch]:
    """The samples sorted by key, in batches of one shape and at most `size(old batch)` samples."""
    limit = max(map(_size, batches), default=1)
    rebatched: list[Batch] = []
    for group in _by_shape(batches):
        whole = _joined(group)
        keys = sample_keys(whole)
        order = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
        parts = order.split(min(limit, size(group[0])))
        rebatched += [{name: value[part.to(value.device)] for name, value in whole.items()} for part in parts]
    return rebatched


def thinned_tokens(keys: Sequence[int], shape: tuple[int, int], mask: Tensor | None, stride: int) -> Tensor:
    """Choose about one token in `stride`, by keys.

    Args:
        shape: samples and tokens, with padding.
        mask: real tokens [B, T].

    Returns:
        bool per real token.
    """
    samples, tokens = shape
    mask = None if mask is None else mask.cpu()
    starts = torch.tensor([key % stride for key in keys])[:, None]
    counted = torch.arange(tokens).expand(samples, tokens) if mask is None else mask.long().cumsum(dim=1) - 1
    selected = (counted + starts) % stride == 0
    return selected.flatten() if mask is None else selected[mask]


def _select(batches: Sequence[Batch], keys: Sequence[list[int]], wanted: Callable[[int], bool]) -> list[Batch]:
    """The samples whose key is wanted."""
    selected: list[Batch] = []
    for batch, batch_keys in zip(batches, keys, strict=True):
        rows = [index for index, key in enumerate(batch_keys) if wanted(key)]
        if len(rows) == len(batch_keys):
            selected.append(batch)
        elif rows:
            index = torch.tensor(rows)
            selected.append({name: value[index.to(value.device)] for name, value in batch.items()})
    return _merged(selected, max(map(len, keys)))


def _merged(batches: Sequence[Batch], limit: int) -> list[Batch]:
    """Join batches of one shape up to `limit` samples."""
    groups: list[list[Batch]] = []
    for same_shape in _by_shape(batches):
        group: list[Batch] = []
        for batch in same_shape:
            if not group or sum(map(_size, group)) + _size(batch) > limit:
                group = []
                groups.append(group)
            group.append(batch)
    return [_joined(group) for group in groups]


def _by_shape(batches: Sequence[Batch]) -> list[list[Batch]]:
    groups: dict[tuple[object, ...], list[Batch]] = {}
    for batch in batches:
        shape = tuple((name, value.dtype, value.shape[1:]) for name, value in sorted(batch.items()))
        groups.setdefault(shape, []).append(batch)
    return list(groups.values())


def _joined(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _size(batch: Batch) -> int:
    return len(next(iter(batch.values())))
