"""The width for a budget of parameters, multiply–accumulates or latency, from configs alone."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Kind
from compressor.bench.latency import measure_latency, torch_runner
from compressor.bench.rows import format_count
from compressor.bench.size import count_macs, count_parameters
from compressor.bench.subprocesses import TimingJob, WorkerError, measure_isolated
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.shape.sizes import WIDTH_MULTIPLE
from compressor.fusion.shape.spec import StudentSpec, sizes_at, student_specs
from compressor.models.configs.reading import model_class
from compressor.models.headless.configured import as_configured
from compressor.models.inputs import dummy_inputs
from compressor.models.ties import untie
from compressor.pipeline.stages import OnStageProgress
from compressor.pipeline.teachers import shape_of
from compressor.pipeline.timing import LENGTH, sample_length
from compressor.recipe import TargetOptions
from compressor.utils.logging import quiet_transformers

#: Least measuring time of a candidate, in seconds.
SECONDS = 1.0
#: Largest relative distance between target and sizes.
SLACK = 0.05


@dataclass(frozen=True)
class Budget:
    """A picked width, and a JSON-ready report of target, costs and candidates."""

    width: float
    report: dict[str, Any]


@dataclass
class WidthCandidates:
    """Possible widths, the narrowest first; built and counted on access.

    Args:
        length: tokens, for MACs.
    """

    configs: Sequence[PretrainedConfig]
    depth: float | int | None = None
    length: int = LENGTH
    looked_at: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lead, self.anatomy, self._depths = shape_of(self.configs)
        self.widths = liked_widths(self.lead, self.anatomy)
        self._targets: dict[int, StudentSpec] = {}

    def __len__(self) -> int:
        return len(self.widths)

    def target(self, index: int) -> StudentSpec:
        """The student's shape."""
        if index not in self._targets:
            width = self.widths[index]
            self._targets[index] = student_specs(
                self.lead, self.anatomy, width, self.depth, self._depths, teachers=self.configs
            )[0]
        return self._targets[index]

    def cost(self, index: int, what: str) -> float:
        """Parameters ("params") or multiply–accumulates ("flops")."""
        about = self.about(index)
        if what not in about:
            config = self.target(index).config
            about[what] = count_parameters(config) if what == "params" else count_macs(config, length=self.length)
        return float(about[what])

    def about(self, index: int) -> dict[str, Any]:
        """Report on a width, with costs counted so far."""
        if index not in self.looked_at:
            sizes = {name: new for name, (_, new) in self.target(index).fields.items()}
            self.looked_at[index] = {"width": self.widths[index], "fields": sizes}
        return self.looked_at[index]

    def nearest(self, target: float, what: str) -> int:
        """The width with the nearest cost, by ratio; costs grow with width."""
        low, high = 0, len(self) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.cost(middle, what) < target:
                low = middle
            else:
                high = middle
        return min((low, high), key=lambda index: abs(math.log(self.cost(index, what) / target)))


def liked_widths(config: PretrainedConfig, anatomy: Anatomy) -> tuple[float, ...]:
    """Hardware-friendly widths, the narrowest first, the full width last.

    All have whole heads. Hidden and FFN sizes are multiples of eight; with fewer than two such widths only the hidden
    size is; else neither.
    """
    attentions = [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION]
    residual = anatomy.residual.size
    free = "head_dim" in anatomy.fields.values() or not any(space.rotary and not space.pairs for space in attentions)
    steps = range(WIDTH_MULTIPLE, residual, WIDTH_MULTIPLE) if free else range(1, attentions[0].groups)
    whole = residual if free else attentions[0].groups
    sizes_of: dict[float, dict[str, int]] = {}
    for step in (*steps, whole):
        try:
            width = _rounded(config, anatomy, step / whole)
            sizes = sizes_at(config, anatomy, width)
        except UserError:
            # Too narrow for a single head.
            continue
        hidden = {sizes[name] for name, meaning in anatomy.fields.items() if meaning == "hidden"}
        if not free or step == whole or hidden <= {step}:
            # Otherwise whole heads round the width to that of another step.
            sizes_of[width] = sizes
    for meanings in (("hidden", "ffn"), ("hidden",), ()):
        fields = [name for name, meaning in anatomy.fields.items() if meaning in meanings]
        widths = [
            width
            for width, sizes in sizes_of.items()
            if width == 1 or all(sizes[name] % WIDTH_MULTIPLE == 0 for name in fields if name in sizes)
        ]
        if len(widths) > 1:
            break
    return tuple(widths)


def _rounded(config: PretrainedConfig, anatomy: Anatomy, width: float) -> float:
    """The nearest width with the FFN a multiple of eight and other sizes equal, if any."""
    ffn = next((name for name, meaning in anatomy.fields.items() if meaning == "ffn"), None)
    sizes = sizes_at(config, anatomy, width)
    if ffn is None or sizes[ffn] % WIDTH_MULTIPLE == 0:
        return width
    full = sizes_at(config, anatomy, 1.0)[ffn]
    near = max(WIDTH_MULTIPLE, round(width * full / WIDTH_MULTIPLE) * WIDTH_MULTIPLE) / full
    near_sizes = sizes_at(config, anatomy, near) if near <= 1 else sizes
    others = [name for name in sizes if anatomy.fields[name] != "ffn"]
    return near if near <= 1 and all(near_sizes[name] == sizes[name] for name in others) else width


def pick_width(
    configs: Sequence[PretrainedConfig],
    target: TargetOptions,
    *,
    depth: float | int | None = None,
    length: int = LENGTH,
    thread_count: int | None = None,
    on_progress: OnStageProgress | None = None,
) -> Budget:
    """Pick the width for a budget.

    Args:
        depth: as in a recipe.
        length: tokens of a text sample.
        thread_count: None for torch's.

    Raises:
        UserError: no width comes near; names the nearest.
    """
    candidates = WidthCandidates(configs, depth, length)
    report: dict[str, Any] = {"asked": {k: v for k, v in target.model_dump().items() if v is not None}}
    index = len(candidates) - 1
    for what, wanted in (("params", target.params), ("flops", target.flops)):
        if wanted is not None:
            index = _sized(candidates, what, wanted)
    if target.latency is not None:
        timer = _Timer(candidates, target.batch_size, length, thread_count or torch.get_num_threads(), on_progress)
        index = _fast_enough(candidates, index, target.latency, timer)
        report["latency"] = timer.settings()
    report["given"] = candidates.about(index)
    report["looked_at"] = [candidates.looked_at[key] for key in sorted(candidates.looked_at)]
    return Budget(candidates.widths[index], report)


def _sized(candidates: WidthCandidates, what: str, wanted: float) -> int:
    """The width with the closest parameters or MACs."""
    last = len(candidates) - 1
    if wanted <= 1:
        full = count_parameters if what == "params" else (lambda config: count_macs(config, length=candidates.length))
        wanted *= full(candidates.lead)
    index = candidates.nearest(wanted, what)
    ends = candidates.cost(0, what), candidates.cost(last, what)
    if not ends[0] * (1 - SLACK) <= wanted <= ends[1] * (1 + SLACK):
        unit = "parameters" if what == "params" else "multiply-accumulates"
        raise UserError(
            f"no student has {format_count(wanted)} {unit}: the nearest is width {candidates.widths[index]:.4g} "
            f"with {format_count(candidates.cost(index, what))}; {format_count(ends[0])} to "
            f"{format_count(ends[1])} are possible"
        )
    return index


def _fast_enough(candidates: WidthCandidates, last: int, limit: float, time: Callable[[int], float]) -> int:
    """The widest of the first `last` + 1 widths within the limit; time grows with width."""
    if time(last) <= limit:
        return last
    if last == 0 or (fastest := time(0)) > limit:
        fastest = time(0)
        raise UserError(
            f"no student takes at most {limit:g} ms here: the nearest is width {candidates.widths[0]:.4g} with "
            f"{fastest:.3g} ms a call"
        )
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        if time(middle) <= limit:
            low = middle
        else:
            high = middle
    return low


@dataclass
class _Timer:
    """Median latency with random weights, in ONNX Runtime, or in torch if export fails."""

    candidates: WidthCandidates
    batch_size: int
    length: int
    thread_count: int
    on_progress: OnStageProgress | None
    backend: str = "onnxruntime"

    def __call__(self, index: int) -> float:
        about = self.candidates.about(index)
        if "p50_ms" not in about:
            if self.on_progress:
                self.on_progress(None, f"timing width {about['width']:.4g}")
            about["p50_ms"] = self._measured(self.candidates.target(index).config)
        return float(about["p50_ms"])

    def settings(self) -> dict[str, Any]:
        """Measurement settings, JSON-ready."""
        return {
            "backend": self.backend,
            "batch_size": self.batch_size,
            "length": sample_length(self.candidates.lead, self.length),
            "threads": self.thread_count,
            "seconds": SECONDS,
        }

    def _measured(self, config: PretrainedConfig) -> float:
        # Only a limit on latency needs the exporters.
        from compressor.pipeline.run_timing import export_to_time

        with quiet_transformers():
            model = untie(as_configured(model_class(config)._from_config(config))).eval()
        length = sample_length(config, self.length) or 1
        with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
            try:
                path = export_to_time(model, Path(scratch))
            except UnsupportedError:
                self.backend = "torch"
                inputs = dummy_inputs(config, self.batch_size, length)
                runner = torch_runner(model, inputs, self.thread_count)
                return measure_latency({"student": runner}, seconds=SECONDS)["student"].p50_ms
            about = {name: getattr(config, name, None) for name in ("vocab_size", "image_size", "num_channels")}
            job = TimingJob("onnx", str(path), self.batch_size, length, self.thread_count, config=about)
            (measurement,) = measure_isolated([job], seconds=SECONDS)
        if isinstance(measurement, WorkerError):
            raise UserError(f"the latency of a candidate could not be measured: {measurement}")
        return measurement.p50_ms
