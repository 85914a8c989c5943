"""Residual maps: one per teacher, since skip connections join all layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compressor.anatomy import Map
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.maps.reader_pca import StreamRead, read_components
from compressor.transport import (  # fmt: skip
    COSTS,
    Coupling,
    CouplingOptions,
    Moments,
    Registry,
    barycentre,
    from_selection,
)


@dataclass(frozen=True, eq=False)
class ResidualProblem:
    """Input of a residual map.

    Attributes:
        gram: joint second moments [N, N], the anchor last.
        sizes, weights: n_k and α_k.
        m: the student's coordinates.
        centred: whether residuals have zero mean.
        rotatable: whether coordinates may rotate.
        scales: per teacher, what norms that keep their scale multiply its coordinates by [norms, n_k]; () if unknown.
        placed: whether coordinates keep their places, so that only teachers' shares are open.
    """

    gram: Tensor
    sizes: Sequence[int]
    weights: Sequence[float]
    m: int
    centred: bool
    rotatable: bool
    coupling: CouplingOptions = field(default_factory=CouplingOptions)
    reads: Sequence[StreamRead] = ()
    placed: bool = False
    scales: Sequence[Tensor] = ()


@dataclass(frozen=True, eq=False)
class ResidualMap:
    """Maps per teacher, α in the push: z = Σ_k push_kᵀ x_k, x_k ≈ pull_k z.

    `norm_scale` is the student's.
    """

    maps: tuple[Map, ...]
    couplings: tuple[Coupling, ...] = ()
    norm_scale: float = 1.0


RESIDUAL_MAPS: Registry[Callable[[ResidualProblem], ResidualMap]] = Registry("residual map")


@RESIDUAL_MAPS.register("barycentre")
def transport_barycentre(problem: ResidualProblem) -> ResidualMap:
    """Couple every teacher's coordinates to their free-support Wasserstein barycentre."""
    n = sum(problem.sizes)
    options = problem.coupling
    gram = gram_for(options.cost, problem.gram[:n, :n])
    centre = barycentre(
        gram, problem.sizes, problem.m, alphas=problem.weights, solver=options.solver, epsilon=options.epsilon,
        free_targets=True, space="residual",
    )  # fmt: skip
    return with_norm_scale(problem, pooled_maps(centre.couplings, problem.weights), centre.couplings)


@RESIDUAL_MAPS.register("slice")
def evenly_spaced_coordinates(problem: ResidualProblem) -> ResidualMap:
    """Keep evenly spaced coordinates, as a baseline."""
    couplings = tuple(
        from_selection(torch.linspace(0, n - 1, problem.m).round().long(), n, space="residual") for n in problem.sizes
    )
    return with_norm_scale(problem, pooled_maps(couplings, problem.weights, scatter=True), couplings)


@RESIDUAL_MAPS.register("importance")
def most_important_coordinates(problem: ResidualProblem) -> ResidualMap:
    """Keep the coordinates that vary most, of any teacher."""
    n = sum(problem.sizes)
    shares = torch.cat([torch.full((k,), a) for k, a in zip(problem.sizes, problem.weights, strict=True)]).double()
    selected = (shares * problem.gram.diagonal()[:n]).argsort(descending=True)[: problem.m].sort().values
    plans = from_selection(selected, n, space="residual").plan.split(list(problem.sizes))
    couplings = tuple(Coupling(plan, plan.sum(1), plan.sum(0), None, "selection", "residual") for plan in plans)
    return with_norm_scale(problem, tuple(Map(each.push(), each.pull()) for each in couplings), couplings)


@RESIDUAL_MAPS.register("principal")
def principal_components(problem: ResidualProblem) -> ResidualMap:
    """Take the principal components of all teachers' residual activations."""
    return projected(problem, _principal_basis(problem))


@RESIDUAL_MAPS.register("readers")
def read_components_map(problem: ResidualProblem) -> ResidualMap:
    """Take the components that the stream's readers need most.

    Principal components if no reads are known.
    """
    basis = _principal_basis(problem)
    return projected(problem, read_components(problem.reads, _roots_of_weights(problem), basis))


@RESIDUAL_MAPS.register("anchor")
def given_anchor(problem: ResidualProblem) -> ResidualMap:
    """Couple every teacher's coordinates to an anchor's, as in the paper.

    Raises:
        UserError: there is no anchor.
    """
    n = sum(problem.sizes)
    if problem.gram.shape[0] == n:
        raise UserError("the residual map 'anchor' needs a trained narrow model: name one with --anchor")
    diagonal = problem.gram.diagonal()
    couplings = []
    for start, size in zip(_starts(problem.sizes), problem.sizes, strict=True):
        rows = slice(start, start + size)
        moments = Moments(diagonal[rows], diagonal[n:], problem.gram[rows, n:])
        couplings.append(problem.coupling.couple(moments, space="residual"))
    return with_norm_scale(problem, pooled_maps(couplings, problem.weights), tuple(couplings))


def placed_coordinates(problem: ResidualProblem) -> ResidualMap:
    """Every coordinate in its place: the only map of a stream whose coordinates have fixed places.

    Raises:
        UnsupportedError: a teacher has another width than the student.
    """
    if set(problem.sizes) != {problem.m}:
        raise UnsupportedError(
            f"coordinates of this stream have fixed places, so all models must be {problem.m} wide, and the teachers "
            f"are {', '.join(map(str, problem.sizes))}"
        )
    couplings = tuple(from_selection(torch.arange(problem.m), problem.m, space="residual") for _ in problem.sizes)
    return with_norm_scale(problem, pooled_maps(couplings, problem.weights), couplings)


def energy_left_out(problem: ResidualProblem) -> float:
    """Share of residual energy outside m common principal components, in [0, 1]."""
    values = torch.linalg.eigvalsh(weighted_gram(problem)).clamp(min=0).flip(0)
    return 1 - float(values[: problem.m].sum() / values.sum().clamp(min=1e-30))


def zero_mean_basis(m: int) -> Tensor:
    """Orthonormal (Helmert) basis of zero-mean vectors, [m, m - 1]."""
    basis = torch.zeros(m, m - 1, dtype=torch.float64)
    for j in range(1, m):
        basis[:j, j - 1] = 1.0
        basis[j, j - 1] = -j
        basis[:, j - 1] /= math.sqrt(j * (j + 1))
    return basis


def pooled_maps(couplings: Sequence[Coupling], weights: Sequence[float], *, scatter: bool = False) -> tuple[Map, ...]:
    """Push and pull to m shared targets: α-weighted means of all coupled to them.

    `scatter` normalises per teacher (for selections).
    """
    mass = sum(a * coupling.plan.sum(0) for a, coupling in zip(weights, couplings, strict=True))
    inverse = torch.where(torch.as_tensor(mass) > 0, 1 / torch.as_tensor(mass), 0.0)
    return tuple(
        Map(a * (coupling.push() if scatter else coupling.plan * inverse), coupling.pull())
        for a, coupling in zip(weights, couplings, strict=True)
    )


def gram_for(cost: str, gram: Tensor) -> Tensor:
    """The Gram matrix of a barycentre's cost.

    Raises:
        UserError: the cost is unknown or needs means.
    """
    COSTS.get(cost)
    if cost == "correlation":
        raise UserError("the barycentre compares by euclidean, squared or cosine; correlation needs a residual policy")
    if cost != "cosine":
        return gram
    norms = gram.diagonal().clamp(min=1e-30).sqrt()
    return gram / torch.outer(norms, norms)


def _principal_basis(problem: ResidualProblem) -> Tensor:
    """Orthonormal, [N, m] or fewer columns."""
    _, vectors = torch.linalg.eigh(weighted_gram(problem))
    return vectors.flip(1)[:, : problem.m - 1 if problem.centred else problem.m]


def projected(problem: ResidualProblem, basis: Tensor) -> ResidualMap:
    """The orthogonal map to a basis."""
    root = _roots_of_weights(problem)
    gram = problem.gram[: len(root), : len(root)]
    if problem.centred:
        basis = basis @ zero_mean_basis(problem.m).T
    elif basis.shape[1] < problem.m:
        basis = torch.nn.functional.pad(basis, (0, problem.m - basis.shape[1]))
    push = root[:, None] * basis
    # Least squares, since a teacher of little weight has little part in z.
    joint = push.T @ gram @ push
    pull = gram @ push @ torch.linalg.pinv(joint, rtol=1e-9, hermitian=True)
    pairs = zip(push.split(list(problem.sizes)), pull.split(list(problem.sizes)), strict=True)
    maps = tuple(Map(teacher_push.contiguous(), teacher_pull.contiguous()) for teacher_push, teacher_pull in pairs)
    return with_norm_scale(problem, maps, ())


def weighted_gram(problem: ResidualProblem) -> Tensor:
    """Joint second moments weighted by α."""
    root = _roots_of_weights(problem)
    return root[:, None] * problem.gram[: len(root), : len(root)] * root[None, :]


def _roots_of_weights(problem: ResidualProblem) -> Tensor:
    parts = [torch.full((n,), math.sqrt(a)) for n, a in zip(problem.sizes, problem.weights, strict=True)]
    return torch.cat(parts).double()


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:k]) for k in range(len(sizes))]


def with_norm_scale(problem: ResidualProblem, maps: tuple[Map, ...], couplings: tuple[Coupling, ...]) -> ResidualMap:
    """Add the norm scale: the student's rms over the teachers'."""
    push = torch.cat([mapping.push for mapping in maps])
    gram = problem.gram[: len(push), : len(push)]
    student = float((push * (gram @ push)).sum()) / problem.m
    diagonals = gram.diagonal().split(list(problem.sizes))
    teacher = sum(a * float(part.mean()) for a, part in zip(problem.weights, diagonals, strict=True))
    return ResidualMap(maps, couplings, math.sqrt(student / teacher) if teacher > 0 and student > 0 else 1.0)
