"""Mixtures of experts: experts are matched across teachers first, then the hidden units of matched experts."""

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
    space: Space, sources: Sequence[FusionTeacher], maps: Maps, anatomy: Anatomy
) -> tuple[dict[str, Map], ...]:
    """Per teacher, the permutation of its experts that brings them nearest to the first teacher's.

    Hard transport between equal numbers of experts, by the inner products of everything that names an expert: its
    router weights and, whatever the order of its units, the products of its matrices with themselves.

    Args:
        space: of the experts.
        sources: the teachers.
        maps: the student's residual maps of each teacher.
        anatomy: the student's.
    """
    profiles = [_profiles(space, source, own, anatomy) for source, own in zip(sources, maps, strict=True)]
    found = []
    for profile in profiles:
        likeness = profiles[0] @ profile.T
        n = len(likeness)
        plan = solve("emd", likeness.max() - likeness, uniform(n), uniform(n), space=space.name).plan
        found.append({space.name: Map.permutation(plan.argmax(dim=1))})
    return tuple(found)


def _profiles(space: Space, source: FusionTeacher, maps: Mapping[str, Map], anatomy: Anatomy) -> Tensor:
    """One row an expert [E, ·], in the student's residual coordinates, each parameter's part of unit norm."""
    columns = []
    for name, axes in anatomy.axes.items():
        if not any(part.key == space.name for part in axes[0].parts):
            continue
        value = source.tensor(name)
        assert value is not None
        keyed = ((dim, axis.parts[0].key) for dim, axis in enumerate(axes) if dim > 0)
        residual, key = next(((dim, key) for dim, key in keyed if key in maps), (None, None))
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


def expert_maps(
    space: Space, problem: UnitProblem, method: str, features: WeightFeatures, maps: Maps
) -> tuple[dict[str, Map], ...]:
    """Per teacher, the maps of every expert's units [E, n, m], in the order of the student's experts.

    Args:
        space: of the units.
        problem: sizes and weights; its statistics are replaced expert by expert.
        method: name of the inner map.
        features: the teachers' weights.
        maps: the student's maps of each teacher, those of the experts among them.
    """
    places = [own[space.experts or ""].push.argmax(dim=0) for own in maps]
    units = [
        UNIT_MAPS.get(method)(replace(problem, statistics=features.expert(space.name, places, expert)))
        for expert in range(space.copies)
    ]
    return tuple(
        {
            space.name: Map(
                torch.stack([one.maps[k].push for one in units]), torch.stack([one.maps[k].pull for one in units])
            )
        }
        for k in range(len(maps))
    )
