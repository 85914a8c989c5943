"""Where a student and its teachers are comparable: residual streams with the maps between them, and attention."""

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

from compressor.errors import UserError

#: The file beside a student that keeps the passages of its fusion.
LAYER_MAPS_FILE = "transport.npz"
_PLACES, _NAMES = "places", "teachers"


@dataclass(frozen=True, eq=False)
class LayerMap:
    """One place where the student's residual stream stands for its teachers'.

    Attributes:
        layer: path of the student's layer, behind which its stream is seen.
        layers: of each teacher, the path of the layer behind which its own is.
        pushes: of each teacher, the map [n_k, m] that carries it, Σ_k push_kᵀ x_k; None where it has no part.
        decoder: whether its tokens are those of an encoder–decoder's decoder.
    """

    layer: str
    layers: tuple[str, ...]
    pushes: tuple[Tensor | None, ...]
    decoder: bool = False


@dataclass(frozen=True)
class AttentionEnd:
    """Where the queries, the keys or the values of one attention are seen.

    Attributes:
        module: whose output holds them.
        columns: the columns of it, head after head.
        heads: how many heads these are.
    """

    module: str
    columns: tuple[int, ...]
    heads: int


@dataclass(frozen=True)
class AttentionPair:
    """One role (queries, keys or values) of the attention that is compared, in the student and in every teacher."""

    student: AttentionEnd
    teachers: tuple[AttentionEnd, ...]
    decoder: bool = False


def save_layer_maps(folder: str | Path, passages: Sequence[LayerMap], fingerprints: Sequence[str]) -> None:
    """Write passages into a folder, whole or not at all; a map that several of them share is written once.

    Args:
        folder: where `transport.npz` goes.
        passages: of one student.
        fingerprints: of its teachers, in their order.
    """
    arrays: dict[int, str] = {}
    stored: dict[str, np.ndarray] = {}
    places = []
    for passage in passages:
        for push in passage.pushes:
            if push is not None and id(push) not in arrays:
                arrays[id(push)] = f"push.{len(arrays)}"
                stored[arrays[id(push)]] = push.numpy()
        names = [None if push is None else arrays[id(push)] for push in passage.pushes]
        places.append({"layer": passage.layer, "layers": passage.layers, "pushes": names, "decoder": passage.decoder})
    about = {_PLACES: json.dumps(places), _NAMES: json.dumps(list(fingerprints))}
    half = Path(folder, f".{LAYER_MAPS_FILE}.partial.npz")
    np.savez(half, **stored, **{name: np.array(text) for name, text in about.items()})  # type: ignore[arg-type]
    os.replace(half, Path(folder, LAYER_MAPS_FILE))


def load_layer_maps(folder: str | Path, fingerprints: Sequence[str]) -> tuple[LayerMap, ...]:
    """The passages that a folder keeps, in the order of the teachers given; () if it keeps none of just these teachers.

    Raises:
        UserError: the file cannot be read.
    """
    path = Path(folder, LAYER_MAPS_FILE)
    if not path.is_file():
        return ()
    try:
        with ZipFile(path) as packed:
            # It is written as it is; what unpacks to more than the file holds is not ours, and may be of any size.
            if sum(entry.file_size for entry in packed.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as file:
            places, known = json.loads(str(file[_PLACES])), json.loads(str(file[_NAMES]))
            pushes = {name: torch.from_numpy(file[name]) for name in file.files if name not in (_PLACES, _NAMES)}
        order = [known.index(one) if one in known else None for one in fingerprints]
        left_out = [index for index in range(len(known)) if index not in order]
        parts = {index for place in places for index, name in enumerate(place["pushes"]) if name is not None}
    except (OSError, ValueError, KeyError, TypeError, BadZipFile, RecursionError, MemoryError) as error:
        raise UserError(f"cannot read {path} ({error}): fuse the student again") from None
    if None in order or parts.intersection(left_out):
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
