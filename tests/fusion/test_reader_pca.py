"""Components that readers would miss: never worse than principal ones, and of the stream only what is read."""

from __future__ import annotations

import pytest
import torch
from families import batches_of, config_of, tiny_model, widen

from compressor.anatomy import inspect_config
from compressor.anatomy.hooks import logits_of
from compressor.errors import UserError
from compressor.fusion import fuse_models
from compressor.fusion.maps.reader_pca import StreamRead, read_components
from compressor.fusion.maps.residual import RESIDUAL_MAPS, ResidualProblem
from compressor.fusion.maps.residual_statistics import STREAM_WEIGHT, space_grams, space_reads
from compressor.fusion.teacher import prepare_teacher
from compressor.recipe import FusionOptions

N, M = 24, 8
ONES = torch.ones(N, dtype=torch.float64)


def moments_of(seed, n=N, fading=1.5):
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(n, n, generator=draw, dtype=torch.float64) * torch.logspace(0, -fading, n).double()[:, None]
    return values @ values.T


def readers_of(seed, n=N, outputs=6):
    draw = torch.Generator().manual_seed(1000 + seed)
    weight = torch.randn(n, outputs, generator=draw, dtype=torch.float64)
    return weight @ weight.T


def principal(moments, m=M):
    return torch.linalg.eigh(moments)[1].flip(1)[:, :m]


def some_reads(count=5):
    return [StreamRead(moments_of(k), (readers_of(k),)) for k in range(count)]


def mean_of(reads):
    return torch.stack([read.moments / read.moments.trace() for read in reads]).mean(0)


def missed(reads, root, basis):
    """The share of what readers put out that they miss, told by least squares from what a basis keeps."""
    lost = whole = 0.0
    for read in reads:
        moments, readers = root[:, None] * read.moments * root, torch.block_diag(*read.readers)
        back = torch.linalg.pinv(basis.T @ moments @ basis, hermitian=True) @ basis.T @ moments
        left = torch.eye(len(root)).double() - basis @ back
        lost += float((readers * (left.T @ moments @ left)).sum())
        whole += float((readers * moments).sum())
    return lost / whole


@pytest.mark.parametrize("count", [1, 2, 5])
def test_less_is_missed_than_of_principal_components(count):
    reads = some_reads(count)
    start = principal(mean_of(reads))
    found = read_components(reads, ONES, start)
    assert missed(reads, ONES, found) < 0.95 * missed(reads, ONES, start)
    assert torch.allclose(found.T @ found, torch.eye(M).double(), atol=1e-10)


def test_where_everything_is_read_alike_they_are_the_principal_components():
    moments = moments_of(0)
    reads = [StreamRead(scale * moments, (torch.eye(N).double(),)) for scale in (1.0, 3.0)]
    start = principal(moments)
    found = read_components(reads, ONES, start)
    assert torch.allclose(found @ found.T, start @ start.T, atol=1e-8)
    left = torch.linalg.eigvalsh(moments).flip(0)[M:].sum() / moments.trace()
    assert missed(reads, ONES, found) == pytest.approx(float(left))


def test_one_read_reaches_its_optimum():
    """Of one read the least that can be missed is known: the small eigenvalues of √C G √C."""
    read = StreamRead(moments_of(0, fading=0.5), (readers_of(0, outputs=2 * N),))
    values, vectors = torch.linalg.eigh(read.moments)
    root = (vectors * values.sqrt()) @ vectors.T
    asked = torch.linalg.eigvalsh(root @ read.readers[0] @ root)
    found = missed([read], ONES, read_components([read], ONES, principal(read.moments)))
    assert found == pytest.approx(float(asked[: N - M].sum() / asked.sum()), rel=0.05)


def test_what_nobody_reads_is_left_out_however_strong_it_is():
    moments = [moments_of(k) for k in range(3)]
    for one in moments:
        one[0, :] = one[:, 0] = 0
        one[0, 0] = 100 * one.trace()
    readers = [readers_of(k) for k in range(3)]
    for one in readers:
        one[0, :] = one[:, 0] = 0
    reads = [StreamRead(c, (g,)) for c, g in zip(moments, readers, strict=True)]
    start = principal(mean_of(reads))
    assert float(start[0].square().sum()) == pytest.approx(1)
    assert float(read_components(reads, ONES, start)[0].square().sum()) < 1e-3


def test_directions_with_next_to_nothing_in_them_are_left_out_however_much_they_are_read():
    # Few samples leave such directions; what is written there would be overwritten by the first step of a finetune.
    faint = N - 1
    moments = torch.eye(N, dtype=torch.float64)
    moments[faint, faint] = 1e-8
    readers = torch.eye(N, dtype=torch.float64)
    readers[faint, faint] = 1e10
    basis = read_components([StreamRead(moments, (readers,))], ONES, principal(moments))
    assert float(basis[faint].abs().max()) < 1e-6


def test_the_streams_unit_and_turning_it_change_nothing():
    reads, turn = some_reads(), torch.linalg.qr(moments_of(9) + torch.eye(N))[0]
    start = principal(mean_of(reads))
    found = read_components(reads, ONES, start)
    turned = [StreamRead(7 * turn @ r.moments @ turn.T, (turn @ r.readers[0] @ turn.T / 7,)) for r in reads]
    other = read_components(turned, ONES, turn @ start)
    assert torch.allclose(turn @ found @ found.T @ turn.T, other @ other.T, atol=1e-6)


def test_teachers_order_changes_nothing_and_one_without_weight_is_left_out():
    sizes, order = (10, 14), torch.tensor([*range(10, 24), *range(10)])
    reads = [StreamRead(moments_of(k), tuple(readers_of(k + n, n) for n in sizes)) for k in range(4)]
    swapped = [StreamRead(r.moments[order][:, order], r.readers[::-1]) for r in reads]
    root = torch.cat([torch.full((10,), 0.3), torch.full((14,), 0.7)]).double().sqrt()
    start = principal(root[:, None] * mean_of(reads) * root)
    found, other = read_components(reads, root, start), read_components(swapped, root[order], start[order])
    assert torch.allclose(found[order] @ found[order].T, other @ other.T, atol=1e-6)
    alone = torch.cat([torch.zeros(10), torch.ones(14)]).double()
    start = principal(alone[:, None] * mean_of(reads) * alone)
    assert float(read_components(reads, alone, start)[:10].abs().max()) < 1e-8


def test_what_loses_nothing_stays_as_it_is():
    low = moments_of(0, fading=0.0)
    basis = principal(low)
    low = basis @ basis.T @ low @ basis @ basis.T
    assert read_components([StreamRead(low, (readers_of(0),))], ONES, basis) is basis
    assert read_components([], ONES, basis) is basis


@pytest.mark.parametrize("family", ["vit", "llama", "gpt2", "bert", "t5", "bart", "gemma2", "mixtral"])
def test_reads_of_every_kind_of_family(family):
    """Each module counts alike, and map and stream agree with principal components in everything but the basis."""
    model = tiny_model(config_of(family))
    source, batches = prepare_teacher("one", model, 1.0), batches_of(config_of(family))
    anatomy = inspect_config(model.config)
    spaces = [space.name for space in anatomy.residuals]
    grams, reads = (make([source], anatomy, spaces, batches) for make in (space_grams, space_reads))
    for space in spaces:
        modules = [
            step for step in anatomy.steps if step.reads == space and model.get_parameter(step.weight).dim() == 2
        ]
        energy = sum(float((read.readers[0] * read.moments).sum()) for read in reads[space])
        assert reads[space] and energy == pytest.approx(len(modules) + STREAM_WEIGHT * len(reads[space]))
        size = anatomy.spaces[space].size
        centred = space in anatomy.centred and anatomy.rotatable(space)
        problem = ResidualProblem(grams[space], [size], [1.0], size // 2, centred, True, reads=reads[space])
        found = RESIDUAL_MAPS.get("readers")(problem).maps[0].push
        assert found.shape == (size, size // 2)
        assert torch.linalg.matrix_rank(found) == size // 2 - centred
        if centred:
            assert float(found.sum(1).abs().max()) < 1e-8


@pytest.mark.parametrize("family", ["vit", "gpt-neox", "llama"])
def test_a_widening_is_undone(family):
    narrow = tiny_model(config_of(family))
    batches = batches_of(narrow.config, 4, 24)
    result = fuse_models(
        [("wide", widen(narrow, 1))], 0.5, batches, FusionOptions(residual="readers", inner="transport")
    )
    inputs = batches_of(narrow.config, 1, 8, first_seed=5)[0]
    wanted = logits_of(narrow, inputs)
    assert float((logits_of(result.model, inputs) - wanted).abs().max() / wanted.abs().max()) < 2e-4


@pytest.mark.slow
def test_the_automatic_choice_takes_them_where_the_width_leaves_out_some_of_the_stream():
    config = config_of("llama")
    teachers = [(f"teacher {seed}", tiny_model(config, seed)) for seed in (0, 1)]
    batches = batches_of(config, 4, 24)
    tried = {one["candidate"].split()[0] for one in fuse_models(teachers, 0.5, batches).report["choice"]["candidates"]}
    assert tried == {"barycentre", "readers"}
    weights = fuse_models(teachers, 0.5, batches, FusionOptions(refit=False)).report["choice"]["candidates"]
    assert not any(one["candidate"].startswith("readers") for one in weights)
    wide, post_norm = [("wide", widen(tiny_model(config), 1))], [("bert", tiny_model(config_of("bert")))]
    for models, samples in ((wide, batches), (post_norm, batches_of(config_of("bert"), 4, 24))):
        choice = fuse_models(models, 0.5, samples).report["choice"]
        assert not any(one["candidate"].startswith("readers") for one in choice["candidates"])


def test_without_data_they_are_the_principal_components():
    teachers = [("one", tiny_model(config_of("llama")))]
    one, other = (
        fuse_models(teachers, 0.5, None, FusionOptions(residual=name)).model for name in ("readers", "principal")
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_refusal_of_an_unknown_map_names_them():
    with pytest.raises(UserError, match="readers"):
        fuse_models([("one", tiny_model(config_of("llama")))], 0.5, None, FusionOptions(residual="magic"))
