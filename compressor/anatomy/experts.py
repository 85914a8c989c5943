"""Spaces of interchangeable experts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from compressor.anatomy.axes import Axis, Kind, Part, Side, Space
from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE, permutation_error
from compressor.anatomy.resize import BUILD_ERRORS, Skeleton
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.study import Study


def with_experts(study: Study, anatomy: Anatomy, skeleton: Skeleton) -> Anatomy:
    """Add spaces of interchangeable experts."""
    for unit in [space for space in anatomy.spaces.values() if space.copies > 1]:
        alone = unit.name.endswith(".ffn")
        owner = unit.name.removesuffix(".ffn")
        # A layer with other hidden units too (shared experts): the router is in the layer, not below the units' name.
        layer = next((path for stack in anatomy.stacks for path in stack.layers if owner.startswith(path + ".")), owner)
        matrices = [
            name for name, axes in anatomy.axes.items() if any(p.key == unit.name for axis in axes for p in axis.parts)
        ]
        growth = next((g for g in skeleton.growths if all((name, 0) in g.rates for name in matrices)), None)
        if growth is None:
            continue
        space = Space(f"{owner}.experts", Kind.EXPERTS, unit.copies)
        axes = dict(anatomy.axes)
        for name, dim in growth.rates:
            if name.startswith((owner if alone else layer) + "."):
                labelled = list(axes[name])
                labelled[dim] = Axis((Part(space.name, labelled[dim].size),), Side.WRITE)
                axes[name] = tuple(labelled)
        spaces = {**anatomy.spaces, space.name: space, unit.name: replace(unit, experts=space.name)}
        candidate = replace(anatomy, spaces=spaces, axes=axes)
        with suppress(*BUILD_ERRORS):
            error = permutation_error(study.model, study.trials, candidate, [space, spaces[unit.name]])
            if error <= CERTIFICATE_TOLERANCE:
                anatomy = candidate
    return anatomy
