"""Mixtures of experts: match experts, then their units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, Map, Side, Space
from compressor.anatomy.queries import Maps
from compressor.fusion.features.weight_features import WeightFeatures
from compressor.fusion.maps.units import UNIT_MAPS, UnitProblem
from compressor.fusion.teacher import FusionTeacher
from compressor.transport import solve, uniform


def match_experts(
    space: Space, teachers: Sequence[FusionTeacher], maps: Maps, anatomy: Anatomy
) -> tuple[dict[str, Map], ...]:
    """Per teacher, the permutation of its experts nearest to the first teacher's, by hard transport."""
    pairs = zip(teachers, maps, strict=True)
    profiles = [_profiles(space, teacher, teacher_maps, anatomy) for teacher, teacher_maps in pairs]
    permutations = []
    for profile in profiles:
        likeness = profiles[0] @ profile.T
        n = len(likeness)
        plan = solve("emd", likeness.max() - likeness, uniform(n), uniform(n), space=space.name).plan
        permutations.append({space.name: Map.permutation(plan.argmax(dim=1))})
    return tuple(permutations)


def expert_maps(
    space: Space, problem: UnitProblem, method: str, features: WeightFeatures, maps: Maps
) -> tuple[dict[str, Map], ...]:
    """Maps of every expert's units [E, n, m] per teacher."""
    # Experts that cannot be interchanged keep their places.
    places = [
        torch.arange(space.copies) if space.experts is None else teacher_maps[space.experts].push.argmax(dim=0)
        for teacher_maps in maps
    ]
    units = [
        UNIT_MAPS.get(method)(replace(problem, statistics=features.expert(space.name, places, expert)))
        for expert in range(space.copies)
    ]
    return tuple(
        {
            space.name: Map(
                torch.stack([unit.maps[k].push for unit in units]), torch.stack([unit.maps[k].pull for unit in units])
            )
        }
        for k in range(len(maps))
    )


def _profiles(space: Space, teacher: FusionTeacher, maps: Mapping[str, Map], anatomy: Anatomy) -> Tensor:
    """One row per expert [E, ·], in the student's coordinates."""
    columns = []
    for name, axes in anatomy.axes.items():
        if not any(part.key == space.name for part in axes[0].parts):
            continue
        value = teacher.tensor(name)
        assert value is not None
        keys = ((dim, axis.parts[0].key) for dim, axis in enumerate(axes) if dim > 0)
        residual, key = next(((dim, key) for dim, key in keys if key in maps), (None, None))
        if residual is None or key is None:
            continue
        mapping = maps[key]
        matrix = mapping.pull if axes[residual].side is Side.READ else mapping.push
        rows = value.movedim(residual, -1) @ matrix
        if rows.dim() == 3:  # units in any order: compare the experts by Σ over units of wᵀw
            rows = torch.einsum("euh,euk->ehk", rows, rows)
        flat = rows.reshape(len(rows), -1)
        flat = flat - flat.mean(dim=0)
        columns.append(flat / flat.norm().clamp(min=1e-30))
    return torch.cat(columns, dim=1)
