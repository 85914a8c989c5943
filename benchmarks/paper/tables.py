"""The tables: which rows and columns there are, and what is measured in each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.paper.trials import Alone, Copied, Ensemble, Finetuned, Fused, Trial

#: As the paper aligns: standardised activations, channels across the borders of heads, costs in units of the largest.
PAPER: Mapping[str, Any] = {"preparation": "standardised", "heads": "across", "normalise": "max"}
#: As this project would align to an anchor: one map for the whole residual stream, heads matched first.
GLOBAL: Mapping[str, Any] = {"preparation": "centred", "heads": "within"}
WEIGHTS: Mapping[str, Any] = {"features": "weights", "heads": "across", "normalise": "max"}
HARD: Mapping[str, Any] = {"solver": "emd"}
SOFT: Mapping[str, Any] = {"solver": "sinkhorn"}
#: The soft maps of tables that are not about them.
SOFT_HERE: Mapping[str, Any] = {"solver": "sinkhorn", "epsilon": 0.01}
REFITS = {"no refit": False, "refit": True}
#: Heads that share their weight with the embedding need one map for the whole stream.
TIED = ("GPT-2s", "T5s")
#: Channels (or heads) have a place in rotary (or shared relative) positions, so they are not coupled across heads.
PLACED = ("Llamas", "T5s")
#: Calibration samples of the rows that say so.
MORE = 1024
#: Optimiser steps of the finetuned table.
STEPS = 100


#: What a user gets without an option, save for the width.
AUTOMATIC = Fused("auto", True)
#: The paper's main row, and what is added to it where held-out samples say how much of the other teacher it takes.
SOFTLY, SHARE = "OT from activations, soft", "share of the anchor chosen"
#: Rows of the shared ViTs that are finetuned.
DEARER = ((SOFTLY, False), (SOFTLY, True))


@dataclass(frozen=True)
class Cell:
    """One place of a table, and what is measured there."""

    row: str
    column: str
    trial: Trial


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: of the page.
        said: what rows and columns are, for the reader.
        settings: names in `SETTINGS`; one sub-table each.
        cells: of a setting, by its name.
        seeds: how many.
    """

    title: str
    said: str
    settings: Sequence[str]
    cells: Callable[[str], Iterator[Cell]]
    seeds: int = 3


def fusions(setting: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Policy and alignment of the rows that several tables share."""
    flowing = "residual-only" if setting in TIED else "averaging"
    weights, activations = dict(WEIGHTS), dict(PAPER)
    if setting in PLACED:
        weights["heads"] = activations["heads"] = "within"
    return {
        "vanilla": ("identity", {}),
        "OT from weights, hard": (flowing, {**weights, **HARD}),
        "OT from weights, soft": (flowing, {**weights, **SOFT}),
        "OT from activations, hard": (flowing, {**activations, **HARD}),
        "OT from activations, soft": (flowing, {**activations, **SOFT}),
        "one global map, hard": ("global", {**GLOBAL, **HARD}),
    }


def one_shot(setting: str) -> Iterator[Cell]:
    yield Cell("teacher 1 (the anchor)", "as it is", Alone(0))
    yield Cell("teacher 2", "as it is", Alone(1))
    yield Cell("ensemble", "as it is", Ensemble())
    for row, (policy, alignment) in fusions(setting).items():
        for column, refit in REFITS.items():
            yield Cell(row, column, Fused(policy, refit, alignment))
    policy, alignment = fusions(setting)[SOFTLY]
    yield Cell(f"{SOFTLY}, {SHARE}", "refit", Fused(policy, True, alignment, weighs=True))
    yield Cell("automatic choice", "refit", AUTOMATIC)
    if setting == "ViTs":
        # What the refit gains from as many images as a fusion takes without options.
        for row in ("OT from activations, hard", SOFTLY):
            policy, alignment = fusions(setting)[row]
            yield Cell(f"{row}, {MORE:,} images", "refit", Fused(policy, True, alignment, samples=MORE))
        more = Fused(policy, True, alignment, samples=MORE, weighs=True)
        yield Cell(f"{SOFTLY}, {SHARE}, {MORE:,} images", "refit", more)
        yield Cell(f"automatic choice, {MORE:,} images", "refit", replace(AUTOMATIC, samples=MORE))


def finetuned(setting: str) -> Iterator[Cell]:
    yield Cell("teacher 1 (the anchor)", "labels", Finetuned(Alone(0), STEPS))
    if setting != "ViTs":
        yield Cell("teacher 2", "labels", Finetuned(Alone(1), STEPS))
    for row, (policy, alignment) in fusions(setting).items():
        for column, refit in REFITS.items():
            # The shared ViTs are four times the work: the better teacher, and what matters most.
            if setting != "ViTs" or (row, refit) in DEARER:
                fused = Fused(policy, refit, alignment)
                yield Cell(row, f"labels, after {column}", Finetuned(fused, STEPS))
    yield Cell("automatic choice", "labels, after refit", Finetuned(AUTOMATIC, STEPS))
    starts: dict[str, Fused | Alone] = {"automatic choice": AUTOMATIC, "teacher 1 (the anchor)": Alone(0)}
    for row, start in starts.items():
        yield Cell(row, "labels and distillation of the ensemble", Finetuned(start, STEPS, distils=True))


def strengths(setting: str) -> Iterator[Cell]:
    for epsilon in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 30.0):
        soft = {"solver": "sinkhorn", "epsilon": epsilon, "normalise": "max"}
        yield Cell(f"λ = {epsilon:g}", "averaging", Fused("averaging", False, {**PAPER, **soft}))
        yield Cell(f"λ = {epsilon:g}", "one global map", Fused("global", False, {**PAPER, **soft}))
    yield Cell("hard", "averaging", Fused("averaging", False, {**PAPER, **HARD}))
    yield Cell("hard", "one global map", Fused("global", False, {**PAPER, **HARD}))


def policies(setting: str) -> Iterator[Cell]:
    names = ("averaging", "weighted-scalar", "weighted-matrix", "residual-only", "branch-only", "identity", "global")
    for name in names:
        for column, solver in {"hard": HARD, "soft, λ = 0.01": SOFT_HERE}.items():
            if name != "identity" or column == "hard":
                yield Cell(name, column, Fused(name, False, {**PAPER, **solver}))


def tokens(setting: str) -> Iterator[Cell]:
    for name in ("all", "class", "window:2", "random:0.25", "loss:0.5"):
        yield Cell(name, "averaging, soft", Fused("averaging", False, {**PAPER, **SOFT_HERE, "tokens": name}))
        yield Cell(name, "global, hard", Fused("global", False, {**GLOBAL, **HARD, "tokens": name}))


def samples(setting: str) -> Iterator[Cell]:
    for count in (8, 32, 128, 512, 2048):
        paper, ours = {**PAPER, **SOFT_HERE}, {**GLOBAL, **HARD}
        yield Cell(str(count), "averaging, soft", Fused("averaging", False, paper, samples=count))
        yield Cell(str(count), "global, hard", Fused("global", False, ours, samples=count))
        yield Cell(str(count), "global, hard, refit", Fused("global", True, ours, samples=count))


def queries(setting: str) -> Iterator[Cell]:
    for mode in ("joint", "equal", "separate"):
        for heads in ("within", "across"):
            for column, policy, options in (
                ("averaging, soft", "averaging", {**PAPER, **SOFT_HERE}),
                ("global, hard", "global", {**GLOBAL, **HARD}),
            ):
                alignment = {**options, "query_key": mode, "heads": heads}
                yield Cell(f"{mode}, {heads} heads", column, Fused(policy, False, alignment))


def numbers(setting: str) -> Iterator[Cell]:
    yield Cell("1", "vanilla", Alone(0))
    for count in range(2, 6):
        group = tuple(range(count))
        row = str(count)
        yield Cell(row, "vanilla", Fused("identity", False, {}, group))
        yield Cell(row, "averaging, soft", Fused("averaging", False, {**PAPER, **SOFT_HERE}, group))
        yield Cell(row, "global, hard", Fused("global", False, {**GLOBAL, **HARD}, group))
        yield Cell(row, "global, hard, refit", Fused("global", True, {**GLOBAL, **HARD}, group))
        yield Cell(row, "ensemble", Ensemble(count))


def copies(setting: str) -> Iterator[Cell]:
    solvers: dict[str, Mapping[str, Any]] = {"hard": HARD}
    for epsilon in (0.003, 0.01, 0.03, 0.1):
        solvers[f"soft, λ = {epsilon:g}"] = {**SOFT, "epsilon": epsilon}
    for row, solver in solvers.items():
        for column, refit in REFITS.items():
            for policy in ("averaging", "global"):
                yield Cell(row, f"{policy}, {column}", Copied(Fused(policy, refit, {**PAPER, **solver})))


def widths(setting: str) -> Iterator[Cell]:
    yield Cell("teacher 1", "as it is", Alone(0))
    yield Cell("anchor", "as it is", Alone(None))
    one = (0,)
    scalings = {"push and pull": {}, "one matrix (the released scaling)": {"scaling": "one-matrix"}}
    for kind, policy, alignment in (
        ("averaging, hard", "averaging", {**PAPER, **HARD}),
        ("averaging, soft", "averaging", {**PAPER, **SOFT_HERE}),
        ("one global map, hard", "global", {**GLOBAL, **HARD}),
    ):
        for name, scaling in scalings.items():
            options = {**alignment, **scaling}
            row = f"{kind}, {name}"
            yield Cell(row, "teacher 1 alone", Fused(policy, False, options, one, anchored=True))
            yield Cell(row, "averaged with the anchor", Fused(policy, False, options, one, anchored=True, joined=True))
            if not scaling:
                yield Cell(row, "teacher 1 alone, refit", Fused(policy, True, options, one, anchored=True))
                yield Cell(row, "averaged, refit", Fused(policy, True, options, one, anchored=True, joined=True))
    if setting != "96 to 192 wide":
        width = {"192 to 128 wide": 2 / 3, "192 to 96 wide": 0.5}[setting]
        yield Cell("no anchor, automatic", "teacher 1 alone, refit", Fused("auto", True, {}, one, width=width))
        yield Cell("no anchor, automatic", "both teachers, refit", Fused("auto", True, {}, width=width))
        yield Cell("no anchor, no refit", "teacher 1 alone", Fused("auto", False, {}, one, width=width))
        yield Cell(
            "evenly spaced slices", "teacher 1 alone", Fused("slice", False, {}, one, width=width, inner="slice")
        )


def depths(setting: str) -> Iterator[Cell]:
    yield Cell("teacher of the student's depth", "as it is", Alone(0))
    yield Cell("teacher of another depth", "as it is", Alone(1))
    yield Cell("ensemble", "as it is", Ensemble())
    for row, policy, alignment in (
        ("averaging, soft", "averaging", {**PAPER, **SOFT_HERE}),
        ("one global map, hard", "global", {**GLOBAL, **HARD}),
    ):
        for column, refit in REFITS.items():
            yield Cell(row, column, Fused(policy, refit, alignment, anchored=True))
            yield Cell(f"{row}, the other alone", column, Fused(policy, refit, alignment, (1,), anchored=True))
    depth = {"4 to 6 layers": 6, "6 to 4 layers": 4}[setting]
    yield Cell("no anchor, automatic", "refit", Fused("auto", True, {}, depth=depth))


VITS = ("small ViTs",)
TABLES = {
    "one-shot": Table(
        "One-shot fusion at full width",
        "Teacher 1 is the anchor. Rows of OT take the policy *averaging* (*residual-only* where the head shares its "
        "weight with the embedding), standardised activations and heads across, as the paper (within, where positions "
        "are rotary or relative); the λ of soft rows is chosen on validation data by the first seed.",
        ("small ViTs", "ViTs", "BERTs", "Llamas", "GPT-2s", "T5s"),
        one_shot,
    ),
    "finetuned": Table(
        "Finetuned at equal steps",
        "The rows of the one-shot table after the same number of steps with labels; AdamW, cosine, the learning rate "
        "searched for every cell on a validation split by the first seed, by trials of a fifth of the steps with 3e-5, "
        "1e-4, 3e-4 and 1e-3. Most rows without a refit took the highest, so they may be better with a higher one.",
        ("small ViTs", "ViTs", "BERTs", "T5s"),
        finetuned,
    ),
    "lambda": Table("Sinkhorn's λ", "λ in units of the largest cost.", VITS, strengths),
    "policies": Table("Residual policies", "No refit.", VITS, policies),
    "tokens": Table("Token filters", "No refit; 17 tokens an image, 16 of them patches.", VITS, tokens),
    "samples": Table("Number of calibration samples", "", VITS, samples),
    "query-key": Table("Maps of queries and keys", "No refit.", VITS, queries),
    "teachers": Table("Two to five teachers", "One of five is the anchor.", ("five small ViTs",), numbers),
    "copies": Table(
        "A teacher fused with a permuted copy of itself",
        "Accuracy; the relative error of the logits is in the JSON file and in the README.",
        VITS,
        copies,
    ),
    "widths": Table(
        "Teachers of another width than the anchor",
        "",
        ("192 to 128 wide", "192 to 96 wide", "96 to 192 wide"),
        widths,
    ),
    "depths": Table("Teachers of another depth", "", ("4 to 6 layers", "6 to 4 layers"), depths),
}
