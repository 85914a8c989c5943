"""What the teachers' residual streams hold, and what reads them: the statistics that residual maps are made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, LinearOp, Norm
from compressor.anatomy.hooks import logits_of
from compressor.anatomy.queries import space_taps
from compressor.fusion.calibration.layerwise import Tap, capture_taps, check_seen
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.statistics import Gram, stacked_grams, token_rows
from compressor.fusion.maps.reader_pca import StreamRead
from compressor.fusion.plan import BuildPlan
from compressor.fusion.teacher import FusionTeacher

#: As many modules the stream itself counts for wherever it is read: norms divide by its size, and what is written must
#: be computed from it.
STREAM = 3


@torch.no_grad()
def space_grams(
    sources: Sequence[FusionTeacher], anatomy: Anatomy, spaces: Sequence[str], batches: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Joint second moments of all teachers' coordinates over all depths, {residual or embedding space: [Σ n_k, Σ n_k]}.

    Every depth counts alike: its moments are divided by the teachers' mean square there (weighted by α), which grows
    along the residual stream while the norms that read it take it out again.  Teachers of other depth are seen at the
    layers that stand for each other: `anatomy` is the student's.
    """
    spots = {space: space_taps(anatomy, space) for space in spaces}
    masks = Masks(batches, anatomy)
    grams: dict[tuple[str, Tap], Gram] = {}
    for index, batch in enumerate(batches):
        for place, values in _depths(sources, spots, masks, index, batch):
            grams.setdefault(place, Gram(values.shape[1])).add(values)
    found = {}
    for space in spaces:
        sizes = [source.space(space).size for source in sources]
        share = torch.cat([torch.full((n,), s.weight / n) for n, s in zip(sizes, sources, strict=True)])
        total = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64)
        for spot in spots[space]:
            moment = grams[space, spot].second_moment()
            total += moment / (moment.diagonal() @ share.double()).clamp(min=1e-30)
        found[space] = total / len(spots[space])
    return found


def _depths(
    sources: Sequence[FusionTeacher],
    spots: Mapping[str, Sequence[Tap]],
    masks: Masks,
    index: int,
    batch: Mapping[str, Tensor],
) -> Iterator[tuple[tuple[str, Tap], Tensor]]:
    """One batch's coordinates of all teachers [T, Σ n_k], by space and place."""
    seen = [_see(source, [spot for own in spots.values() for spot in own], batch) for source in sources]
    for space, own in spots.items():
        for spot in own:
            yield (space, spot), stacked_grams([token_rows(one[spot], masks.of(index, spot[0])) for one in seen])


def _see(source: FusionTeacher, spots: Sequence[Tap], batch: Mapping[str, Tensor]) -> dict[Tap, Tensor]:
    own = {(source.own(module), end): (module, end) for module, end in spots}
    with capture_taps(source.model, list(own)) as seen:
        logits_of(source.model, {name: value for name, value in batch.items() if name != "labels"})
    check_seen(source.name, seen)
    return {(module, end): seen[source.own(module), end] for module, end in spots}


@dataclass(frozen=True)
class _Reading:
    """Linear modules that read the stream at one place, in the student's names.

    Attributes:
        spot: where the stream is seen: in front of their norm, or of themselves where no norm is taken off.
        steps: the modules.
        norm: of a head that shares its weight with the embedding, the norm in front that keeps its scale.
    """

    spot: Tap
    steps: tuple[LinearOp, ...]
    norm: Norm | None


@torch.no_grad()
def space_reads(
    sources: Sequence[FusionTeacher], anatomy: Anatomy, spaces: Sequence[str], batches: Sequence[Mapping[str, Tensor]]
) -> dict[str, list[StreamRead]]:
    """Every place where linear modules read residual or embedding spaces, {space: reads}.

    Every module of every teacher counts alike, since its G is divided by the energy of what it puts out; the stream
    itself, which norms and writers need, counts like `STREAM` modules at every place.  A head counts by the differences
    between its classes: what all of them have in common softmax takes out again.  A layer that runs several times is
    seen in its first run.
    """
    places = {space: _readings(anatomy, space, sources[0]) for space in spaces}
    masks = Masks(batches, anatomy)
    grams: dict[tuple[str, Tap], Gram] = {}
    for index, batch in enumerate(batches):
        seen = [_see(source, [one.spot for own in places.values() for one in own], batch) for source in sources]
        for space, own in places.items():
            for spot in (one.spot for one in own):
                # A head may read several tokens side by side.
                parts = [
                    token_rows(shown[spot], masks.of(index, spot[0])).reshape(-1, source.space(space).size)
                    for source, shown in zip(sources, seen, strict=True)
                ]
                values = stacked_grams(parts)
                grams.setdefault((space, spot), Gram(values.shape[1])).add(values)
    return {
        space: [_read(sources, space, one, grams.pop((space, one.spot)).second_moment()) for one in own]
        for space, own in places.items()
    }


def _readings(anatomy: Anatomy, space: str, source: FusionTeacher) -> list[_Reading]:
    outline, found = BuildPlan(anatomy), dict[Tap, _Reading]()
    for step in anatomy.steps:
        weight = source.tensor(step.weight)
        if step.reads != space or weight is None or weight.dim() != 2:
            continue
        before = [norm for norm in anatomy.norms if norm.space == space and step.module in norm.readers]
        norm = before[0] if before and anatomy.rotatable(space) else None
        spot: Tap = (step.module if norm is None else norm.module, "in")
        known = found.get(spot)
        kept = norm if norm is not None and not outline.folds(norm) else None
        found[spot] = _Reading(spot, (*(known.steps if known else ()), step), kept)
    return list(found.values())


def _read(sources: Sequence[FusionTeacher], space: str, reading: _Reading, moments: Tensor) -> StreamRead:
    readers, start = [], 0
    for source in sources:
        size = source.space(space).size
        own = moments[start : start + size, start : start + size]
        total = STREAM * torch.eye(size).to(own) / own.diagonal().sum().clamp(min=1e-30)
        for step in reading.steps:
            weight = source.read_weight(step).double()
            if step.writes is None and weight.shape[1] > 1:
                weight = weight - weight.mean(1, keepdim=True)
            if reading.norm is not None:
                scale = source.tensor(f"{reading.norm.module}.weight")
                assert scale is not None
                weight = (scale + 1 - reading.norm.unit_scale)[:, None] * weight
            asked = torch.stack([part @ part.T for part in weight.split(size)]).sum(0)
            total += asked / (asked * own).sum().clamp(min=1e-30)
        readers.append(total)
        start += size
    return StreamRead(moments, tuple(readers))
