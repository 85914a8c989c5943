"""Parameters that no trial reaches stay as they are, or are refused by name.

Where every input of the class was tried, they are idle.  Where an input could not be made, nothing is known of them:
what sizes them keeps its value, and the streams that grow with it keep their coordinates.
"""

from __future__ import annotations

import re
from dataclasses import replace

from compressor.anatomy.axes import Axis, Kind, Part
from compressor.anatomy.coverage import without_space
from compressor.anatomy.fields import Meaning, Sizes, grown_spaces, narrowing, sized_parameters
from compressor.anatomy.resize import Skeleton
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


def keep_unproven(study: Study, anatomy: Anatomy, skeleton: Skeleton, sizes: Sizes) -> tuple[Anatomy, Sizes]:
    """Fix what sizes parameters that no trial reaches, where an input could not be made; weaker claims need no proof.

    Raises:
        CertificateError: nothing is left to become narrower; names what no trial reaches and the inputs.
    """
    untried = untried_inputs(study)
    unreached = set(study.unreached)
    growths = [growth for growth in narrowing(skeleton, sizes) if unreached & {name for name, _ in growth.rates}]
    if not untried or not growths:
        return anatomy, sizes
    why = f"no trial input could be made of {_named(untried)}, which may reach it"
    fixed = dict.fromkeys((field for growth in growths for field in growth.fields), Meaning.FIXED)
    for name in sorted({name for growth in growths for name in grown_spaces(growth, anatomy.axes, anatomy.spaces)}):
        space = anatomy.spaces[name]
        if space.kind is Kind.RESIDUAL:
            anatomy = replace(anatomy, spaces={**anatomy.spaces, name: replace(space, placed=True)})
        else:
            anatomy = without_space(anatomy, name)
        left = {other: change for other, change in anatomy.sensitivity.items() if other != name}
        anatomy = replace(anatomy, sensitivity=left, pinned={**anatomy.pinned, name: why})
    kept = replace(sizes, meanings={**sizes.meanings, **fixed})
    if not {Meaning.HIDDEN, Meaning.FFN} & set(kept.meanings.values()):
        raise CertificateError(_refusal(study, sorted(unreached & sized_parameters(skeleton, sizes)), untried))
    return anatomy, kept


def keep_unsized(anatomy: Anatomy, sizes: Sizes) -> Anatomy:
    """Streams keep their coordinates where no field of the config sizes any."""
    if Meaning.HIDDEN in sizes.meanings.values() or any(space.placed for space in anatomy.residuals):
        return anatomy
    streams = [space.name for space in anatomy.residuals]
    spaces = {name: replace(s, placed=s.placed or name in streams) for name, s in anatomy.spaces.items()}
    why = dict.fromkeys(streams, "no field of the config sizes it")
    left = {name: change for name, change in anatomy.sensitivity.items() if name not in streams}
    return replace(anatomy, spaces=spaces, sensitivity=left, pinned={**anatomy.pinned, **why})


def settle_unreached(study: Study, anatomy: Anatomy, skeleton: Skeleton, sizes: Sizes) -> Anatomy:
    """Pin parameters that no trial reaches; those that a width resizes are named as idle."""
    sized = sized_parameters(skeleton, sizes)
    resized = [name for name in study.unreached if name in sized]
    kept = [name for name in study.unreached if name not in sized]
    axes = {
        name: tuple(Axis((Part(None, axis.size),), axis.side) for axis in labelled) if name in kept else labelled
        for name, labelled in anatomy.axes.items()
    }
    pinned = {**anatomy.pinned, **dict.fromkeys(kept, "no trial input reaches it")}
    return replace(anatomy, axes=axes, pinned=pinned, idle=tuple(resized))


def untried_inputs(study: Study) -> list[str]:
    """Inputs that forward reads and no trial has, but for those that reach no parameter."""
    return [
        name
        for name in readable_inputs(study.model)
        if not _MASK.fullmatch(name)
        and not (name == "encoder_hidden_states" and not getattr(study.config, "add_cross_attention", False))
        and not any(name in inputs for inputs in study.trials)
    ]


def _refusal(study: Study, missed: list[str], untried: list[str]) -> str:
    total = sum(parameter.numel() for parameter in study.model.parameters())
    share = sum(study.model.get_parameter(name).numel() for name in missed) / total
    return (
        f"{study.config.model_type}: no trial input reaches {_named(missed)} ({share:.1%} of the small model's "
        f"parameters), and forward also reads {_named(untried)}, for which no trial input is made; what is not proven "
        f"is not fused, and nothing else could become narrower, so nothing was touched"
    )


def _named(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
