"""Spaces whose wrong map changes nothing are pinned: nothing proves them."""

from __future__ import annotations

from dataclasses import replace

from compressor.anatomy.axes import Kind
from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE
from compressor.anatomy.coverage import sensitivity, without_space
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.study import Study


def pin_insensitive(study: Study, anatomy: Anatomy) -> Anatomy:
    """The anatomy with sensitivities; spaces whose wrong map changes nothing are pinned.

    Spaces of parameters that no trial reaches at all are left to `unreached`.
    """
    changes = sensitivity(study.model, study.trials, anatomy)
    weak = [name for name, change in changes.items() if not change > CERTIFICATE_TOLERANCE]
    pinned = dict(anatomy.pinned)
    for name in weak:
        if set(anatomy.parameters_of(name)) <= set(study.unreached):
            del changes[name]
            continue
        space = anatomy.spaces[name]
        if space.kind is Kind.RESIDUAL:
            anatomy = replace(anatomy, spaces={**anatomy.spaces, name: replace(space, placed=True)})
        else:
            anatomy = without_space(anatomy, name)
        pinned[name] = f"a wrong map changes the answers by {changes.pop(name):.0e} only"
    return replace(anatomy, sensitivity=changes, pinned=pinned)
