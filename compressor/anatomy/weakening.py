"""Claims of a space are weakened until permutations keep the answers.

An attention's query–key channels keep their places first, then its heads too, then the whole space does; other spaces
keep theirs at once.  A residual stream whose coordinates keep their places keeps its width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from compressor.anatomy.axes import Kind, Space
from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE, permutation_error
from compressor.anatomy.coverage import without_space
from compressor.anatomy.resize import BUILD_ERRORS
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.study import Study
from compressor.utils.logging import one_line

#: Seeds of the permutations that a weakened claim must stand.
_SEEDS = (1, 2)


def weaken_failing(study: Study, anatomy: Anatomy, standing: Iterable[str] = ()) -> Anatomy:
    """The anatomy with the strongest claims that stand; `pinned` says why others do not.

    Args:
        standing: spaces whose claims are known to stand.
    """
    settled = set(standing)
    for space in list(anatomy.spaces.values()):
        if space.name in settled:
            continue
        names = [s.name for s in anatomy.spaces.values() if s is space or (space.order and s.order == space.order)]
        settled |= set(names)
        reason = failure = _failure(study, anatomy, names)
        for weaker in _weaker(anatomy, names) if failure else ():
            anatomy, failure = weaker, _failure(study, weaker, [name for name in names if name in weaker.spaces])
            if not failure:
                break
        lost = {name: reason for name in names if name not in anatomy.spaces or anatomy.spaces[name].placed}
        anatomy = replace(anatomy, pinned={**anatomy.pinned, **lost})
    return anatomy


def _weaker(anatomy: Anatomy, names: list[str]) -> Iterator[Anatomy]:
    """Anatomies with ever weaker claims about some spaces."""
    spaces = [anatomy.spaces[name] for name in names]
    if spaces[0].kind is Kind.RESIDUAL:
        yield _with(anatomy, [replace(space, placed=True) for space in spaces])
        return
    if spaces[0].kind is Kind.ATTENTION:
        if not all(space.rotary for space in spaces):
            yield _with(anatomy, [replace(space, rotary=True) for space in spaces])
        yield _with(anatomy, [replace(space, rotary=True, head_position_fixed=True) for space in spaces])
    for name in names:
        anatomy = without_space(anatomy, name)
    yield anatomy


def _with(anatomy: Anatomy, spaces: list[Space]) -> Anatomy:
    return replace(anatomy, spaces={**anatomy.spaces, **{space.name: space for space in spaces}})


def _failure(study: Study, anatomy: Anatomy, names: list[str]) -> str:
    """Why permuting spaces together fails, or ""."""
    spaces = [anatomy.spaces[name] for name in names]
    for seed in _SEEDS if spaces else ():
        try:
            error = permutation_error(study.model, study.trials, anatomy, spaces, seed)
        except BUILD_ERRORS as problem:
            return f"permuting it fails ({type(problem).__name__}: {one_line(problem, 100)})"
        if not error <= CERTIFICATE_TOLERANCE:
            return f"permuting it changes the answers by {error:.0e}"
    return ""
