"""What a certificate leaves unproven is pinned, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from compressor.anatomy.axes import Axis, Part
from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE
from compressor.anatomy.coverage import sensitivity, without_space
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.study import Study
from compressor.errors import CertificateError
from compressor.models.signature import readable_inputs

#: Inputs that hide coordinates, or give the sizes of other inputs, and reach no parameter.
_MASK = re.compile(
    r"(.*_)?(attention|pixel|padding|observed|features)_mask|batch_num_images"
    r"|(image|video|audio|spatial)_(sizes|shapes|grid_thw|lengths?)(_videos)?"
    r"|mm_token_type_ids|second_per_grid_ts|.*_grid_thw"
)


def pin_insensitive(study: Study, anatomy: Anatomy) -> Anatomy:
    """The anatomy with sensitivities; spaces whose wrong map changes nothing are pinned.

    Spaces of parameters that no trial reaches at all are left to `settle_unreached`.
    """
    changes = sensitivity(study.model, study.trials, anatomy)
    weak = [name for name, change in changes.items() if not change > CERTIFICATE_TOLERANCE]
    pinned = dict(anatomy.pinned)
    for name in weak:
        if set(anatomy.parameters_of(name)) <= set(study.unreached):
            del changes[name]
            continue
        anatomy = without_space(anatomy, name)
        pinned[name] = f"a wrong map changes the answers by {changes.pop(name):.0e} only"
    return replace(anatomy, sensitivity=changes, pinned=pinned)


def settle_unreached(study: Study, anatomy: Anatomy, sized: Iterable[str]) -> Anatomy:
    """Pin parameters that no trial reaches, or keep them as idle where every input of the class was tried.

    Args:
        sized: parameters that a width resizes, so they cannot stay as they are.

    Raises:
        CertificateError: names what no trial reaches and the inputs that could not be made.
    """
    resized = [name for name in study.unreached if name in set(sized)]
    untried = [
        name
        for name in readable_inputs(study.model)
        if not _MASK.fullmatch(name)
        and not (name == "encoder_hidden_states" and not getattr(study.config, "add_cross_attention", False))
        and not any(name in inputs for inputs in study.trials)
    ]
    if resized and untried:
        total = sum(parameter.numel() for parameter in study.model.parameters())
        share = sum(study.model.get_parameter(name).numel() for name in resized) / total
        raise CertificateError(
            f"{study.config.model_type}: no trial input reaches {_named(resized)} ({share:.1%} of the small model's "
            f"parameters), and forward also reads {_named(untried)}, for which no trial input is made; what is not "
            f"proven is not fused, so nothing was touched"
        )
    kept = [name for name in study.unreached if name not in resized]
    axes = {
        name: tuple(Axis((Part(None, axis.size),), axis.side) for axis in labelled) if name in kept else labelled
        for name, labelled in anatomy.axes.items()
    }
    pinned = {**anatomy.pinned, **dict.fromkeys(kept, "no trial input reaches it")}
    return replace(anatomy, axes=axes, pinned=pinned, idle=tuple(resized))


def _named(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
