"""Maps between hidden states, and pairs of attentions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Kind, Role, inspect_config
from compressor.anatomy.queries import attention_columns
from compressor.errors import UserError

#: The file with the layer maps of a student, in its folder.
LAYER_MAPS_FILE = "transport.npz"
_PLACES, _NAMES = "places", "teachers"
#: The roles of an attention whose relations are compared.
RELATION_ROLES = (Role.QUERY, Role.KEY, Role.VALUE)


@dataclass(frozen=True, eq=False)
class LayerMap:
    """Maps of the teachers' residual streams to the student's, after one layer.

    Attributes:
        layers: the teachers'.
        pushes: [n_k, m], or None: the student's stream is Σ_k push_kᵀ x_k.
        decoder: tokens are the decoder's.
    """

    layer: str
    layers: tuple[str, ...]
    pushes: tuple[Tensor | None, ...]
    decoder: bool = False


@dataclass(frozen=True)
class AttentionEnd:
    """Where one attention's queries, keys or values are computed.

    Attributes:
        columns: of the output, head after head.
    """

    module: str
    columns: tuple[int, ...]
    heads: int


@dataclass(frozen=True)
class AttentionPair:
    """Queries, keys or values of an attention, in student and teachers."""

    student: AttentionEnd
    teachers: tuple[AttentionEnd, ...]
    decoder: bool = False


def attention_pairs(student: Anatomy, teachers: Sequence[Anatomy]) -> tuple[AttentionPair, ...]:
    """Pair queries, keys and values of every stack's last layer (Wang et al. 2021, section 3: MiniLMv2).

    Only roles with linear modules in all models count.
    """
    models = [student, *teachers]
    pairs = []
    for index in range(len(student.stacks)):
        spaces = [_last_attention(anatomy, index) for anatomy in models]
        for role in RELATION_ROLES:
            ends = [_attention_end(anatomy, space, role) for anatomy, space in zip(models, spaces, strict=True)]
            known = [end for end in ends if end is not None]
            if len(known) == len(models):
                first, *others = known
                pairs.append(AttentionPair(first, tuple(others), decoder=index > 0))
    return tuple(pairs)


def attention_pairs_of(student: PretrainedConfig, teachers: Sequence[PretrainedConfig]) -> tuple[AttentionPair, ...]:
    """`attention_pairs`, by configs."""
    return attention_pairs(inspect_config(student), [inspect_config(teacher) for teacher in teachers])


def save_layer_maps(folder: str | Path, layer_maps: Sequence[LayerMap], fingerprints: Sequence[str]) -> None:
    """Write layer maps to `transport.npz` atomically.

    Args:
        fingerprints: of the teachers.
    """
    names: dict[int, str] = {}
    arrays: dict[str, np.ndarray] = {}
    places = []
    for layer_map in layer_maps:
        for push in layer_map.pushes:
            if push is not None and id(push) not in names:
                names[id(push)] = f"push.{len(names)}"
                arrays[names[id(push)]] = push.numpy()
        pushes = [None if push is None else names[id(push)] for push in layer_map.pushes]
        places.append(
            {"layer": layer_map.layer, "layers": layer_map.layers, "pushes": pushes, "decoder": layer_map.decoder}
        )
    texts = {_PLACES: json.dumps(places), _NAMES: json.dumps(list(fingerprints))}
    partial = Path(folder, f".{LAYER_MAPS_FILE}.partial.npz")
    np.savez(partial, **arrays, **{name: np.array(text) for name, text in texts.items()})  # type: ignore[arg-type]
    os.replace(partial, Path(folder, LAYER_MAPS_FILE))


def load_layer_maps(folder: str | Path, fingerprints: Sequence[str]) -> tuple[LayerMap, ...]:
    """Load layer maps in the given order of teachers; () if the file is of others.

    Raises:
        UserError: the file cannot be read.
    """
    path = Path(folder, LAYER_MAPS_FILE)
    if not path.is_file():
        return ()
    try:
        with ZipFile(path) as packed:
            # It is written uncompressed; what unpacks to more is not ours, and may be of any size.
            if sum(entry.file_size for entry in packed.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as file:
            places, known = json.loads(str(file[_PLACES])), json.loads(str(file[_NAMES]))
            pushes = {name: torch.from_numpy(file[name]) for name in file.files if name not in (_PLACES, _NAMES)}
        order = [known.index(fingerprint) if fingerprint in known else None for fingerprint in fingerprints]
        left_out = [index for index in range(len(known)) if index not in order]
        used = {index for place in places for index, name in enumerate(place["pushes"]) if name is not None}
    except (OSError, ValueError, KeyError, TypeError, BadZipFile, RecursionError, MemoryError) as error:
        raise UserError(f"cannot read {path} ({error}): fuse the student again") from None
    if None in order or used.intersection(left_out):
        return ()
    return tuple(
        LayerMap(
            place["layer"],
            tuple(place["layers"][index] for index in order),
            tuple(pushes.get(place["pushes"][index]) for index in order),
            bool(place["decoder"]),
        )
        for place in places
    )


def _last_attention(anatomy: Anatomy, stack: int) -> str | None:
    """The last layer's first attention, in decoders self-attention."""
    layer = anatomy.stacks[stack].layers[-1]
    kinds = {name: space.kind for name, space in anatomy.spaces.items()}
    written = (op.writes or "" for op in anatomy.steps if op.module.startswith(layer + "."))
    return next((name for name in written if kinds.get(name) is Kind.ATTENTION), None)


def _attention_end(anatomy: Anatomy, space: str | None, role: Role) -> AttentionEnd | None:
    if space is None:
        return None
    try:
        tap, columns = attention_columns(anatomy, space, role)
    except StopIteration:
        return None
    return AttentionEnd(tap[0], tuple(columns.tolist()), len(columns) // anatomy.spaces[space].head_dim)
