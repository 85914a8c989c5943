"""Calibration samples by what is in them: neither their order, nor batches, nor padding says which of them are used.

Every sample has a key, the hash of its real content.  Held-out samples, those of pilots and of residual statistics,
and the tokens that units are chosen by, are taken by key; so the same samples make the same student.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]

#: Inputs that are padded, and the mask that says where.
_PADDED = {
    "input_ids": "attention_mask",
    "token_type_ids": "attention_mask",
    "position_ids": "attention_mask",
    "decoder_input_ids": "decoder_attention_mask",
}
_MASKS = frozenset(_PADDED.values())


#: Logits that one call of a model may make.
MOST_CALL_LOGITS = 1 << 24


def split_large_batches(batches: Sequence[Batch], answers: Callable[[Batch], int]) -> list[Batch]:
    """Batches in parts of which none makes more than `MOST_CALL_LOGITS` logits, unless one sample alone does.

    Args:
        batches: inputs [B, ...].
        answers: how many logits a batch makes.
    """
    found: list[Batch] = []
    for batch in batches:
        size = max(1, MOST_CALL_LOGITS // max(1, answers({name: value[:1] for name, value in batch.items()})))
        if size >= _size(batch):
            found.append(batch)
            continue
        starts = range(0, _size(batch), size)
        found += [{name: value[start : start + size] for name, value in batch.items()} for start in starts]
    return found


def without_labels(batch: Batch) -> dict[str, Tensor]:
    """What a model is given."""
    return {name: value for name, value in batch.items() if name != "labels"}


def sample_keys(batch: Batch) -> list[int]:
    """One key a sample: 64 bits of the hash of its inputs without padding."""
    found = []
    inputs = without_labels(batch)
    for index in range(len(next(iter(inputs.values())))):
        digest = hashlib.sha1(usedforsecurity=False)
        for name in sorted(inputs.keys() - _MASKS):
            value = inputs[name][index]
            mask = inputs.get(_PADDED.get(name, ""))
            if mask is not None:
                value = value[mask[index].bool()]
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        found.append(int.from_bytes(digest.digest()[:8], "big"))
    return found


def hold_out(batches: Sequence[Batch], share: float) -> tuple[list[Batch], int]:
    """The batches with `share` of the samples in batches of their own at the end.

    Returns:
        The batches, and how many of the last ones are held out: 0 where there are fewer than two samples.
    """
    keys = [sample_keys(batch) for batch in batches]
    ranked = sorted(key for own in keys for key in own)
    if len(ranked) < 2:
        return list(batches), 0
    limit = ranked[min(len(ranked) - 2, max(0, round(share * len(ranked)) - 1))]
    train = _where(batches, keys, lambda key: key > limit)
    held = _where(batches, keys, lambda key: key <= limit)
    return ([*train, *held], len(held)) if train else (list(batches), 0)


def take_samples(batches: Sequence[Batch], samples: int) -> list[Batch]:
    """As many samples as asked for, those of the greatest keys; all of them if there are fewer."""
    keys = [sample_keys(batch) for batch in batches]
    ranked = sorted((key for own in keys for key in own), reverse=True)
    if len(ranked) <= samples:
        return list(batches)
    return _where(batches, keys, lambda key: key >= ranked[samples - 1])


def sorted_by_key(batches: Sequence[Batch], size: Callable[[Batch], int]) -> list[Batch]:
    """The same samples in the order of their keys, those of one shape together.

    Args:
        batches: inputs [B, ...].
        size: how many samples of such a batch make a new one; none gets larger than the largest one given.
    """
    limit = max(map(_size, batches), default=1)
    found: list[Batch] = []
    for group in _by_shape(batches):
        whole = _joined(group)
        keys = sample_keys(whole)
        order = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
        parts = order.split(min(limit, size(group[0])))
        found += [{name: value[part.to(value.device)] for name, value in whole.items()} for part in parts]
    return found


def _where(batches: Sequence[Batch], keys: Sequence[list[int]], kept: Callable[[int], bool]) -> list[Batch]:
    """The samples that are kept, in batches no larger than the largest one given."""
    found: list[Batch] = []
    for batch, own in zip(batches, keys, strict=True):
        rows = [index for index, key in enumerate(own) if kept(key)]
        if len(rows) == len(own):
            found.append(batch)
        elif rows:
            picked = torch.tensor(rows)
            found.append({name: value[picked.to(value.device)] for name, value in batch.items()})
    return _merged(found, max(map(len, keys)))


def _merged(batches: Sequence[Batch], limit: int) -> list[Batch]:
    """Batches of one shape put together, up to `limit` samples each: small ones take more calls than work."""
    found: list[list[Batch]] = []
    for same in _by_shape(batches):
        group: list[Batch] = []
        for batch in same:
            if not group or sum(map(_size, group)) + _size(batch) > limit:
                group = []
                found.append(group)
            group.append(batch)
    return [_joined(group) for group in found]


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


def thinned_tokens(keys: Sequence[int], shape: tuple[int, int], mask: Tensor | None, stride: int) -> Tensor:
    """Which token vectors stay when about one in `stride` does; a sample's key says with which of them it starts.

    Args:
        keys: of the samples.
        shape: samples and tokens of a batch, padding included.
        mask: its real tokens [B, T], or None when all are.
        stride: one in how many.

    Returns:
        bool, one entry a real token.
    """
    samples, tokens = shape
    starts = torch.tensor([key % stride for key in keys])[:, None]
    counted = torch.arange(tokens).expand(samples, tokens) if mask is None else mask.long().cumsum(dim=1) - 1
    kept = (counted + starts) % stride == 0
    return kept.flatten() if mask is None else kept[mask]
