"""The table of supported families: what is proven for each, made anew by one command.

    python benchmarks/families/table.py -o docs/families.md

For every family: the certificate's error; the error after fusing a widened teacher, and two of them, back to half their
width; the divergence of a half-width student of two independent tiny teachers from their ensemble, refitted and evenly
sliced; the largest relative difference of its ONNX files; the seconds of inference and certificate at the family's
published base size.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import logging

from compressor.anatomy import inspect_config
from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import logits_of
from compressor.ensemble.answers import ensemble_predictions, mean_kl
from compressor.errors import UserError
from compressor.export.onnx import largest_differences
from compressor.fusion import fuse_models
from compressor.models.configs.fields import with_fields
from compressor.models.inputs import dummy_inputs, without_labels
from compressor.pipeline.environment import environment
from compressor.recipe import FusionOptions
from compressor.testing.tasks import LabelledBatch, probe_of, task_for, train_briefly
from compressor.testing.tiny_configs import FAMILIES, tiny_config
from compressor.testing.widening import widen

#: Optimiser steps of a tiny teacher.
STEPS = 300
#: What the published base config has where the class's defaults are not one.
_BASE: dict[str, dict[str, Any]] = {
    "beit": {"use_relative_position_bias": True},
    "bloom": {"hidden_size": 1024, "n_layer": 24, "n_head": 16},
    "deberta-v2": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 256,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0,
    },
    "t5": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "albert": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}  # fmt: skip


_HEAD = """# Families

What is proven for every family that is tried with each release, at tiny sizes built offline. Other families go through
the same inference; `compress inspect` tells whether the certificate holds for yours.

Made by `{command}` with torch {torch}, transformers {transformers}, ONNX Runtime {onnxruntime} on {cpu}, one thread.

- **certificate**: largest relative change of the logits when spaces are permuted at random (float64; families that
  compute norms, rotary angles or softmax in float32 stop at 1e-7).
- **wrong map**: least relative change of the logits by a map that permutes what writes a space and not what reads it.
- **recovery**: relative error of the logits after fusing one, or two, function-preserving widenings back to half their
  width (float64, inputs that no calibration saw).
- **slicing, refit**: KL to the ensemble of two tiny teachers that were trained from different seeds on one synthetic
  task, for the half-width student by evenly spaced slices and by the automatic fusion, in nats on unseen samples,
  without finetuning; of models without a head through a linear probe fitted on the calibration samples.
- **ONNX**: largest relative difference of any of the student's files (with and without past, encoder, decoder).
- **inspect**: seconds of inference and certificate at the published base size; nothing large is allocated.

| family | class | certificate | wrong map | recovery (1, 2) | slicing | refit | times better | ONNX | inspect |
| :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: |"""


def base_config(family: str) -> PretrainedConfig:
    """The family's published base size."""
    kind, architecture, _ = FAMILIES[family]
    config = AutoConfig.for_model(kind, **_BASE.get(family, {}))
    config.architectures = [architecture]
    return config


def prove(family: str, steps: int) -> dict[str, Any]:
    """All figures of one family."""
    start = time.perf_counter()
    base = inspect_config(base_config(family))
    seconds = time.perf_counter() - start
    anatomy = inspect_config(tiny_config(family))
    row: dict[str, Any] = {
        "class": anatomy.model_class, "base_seconds": seconds, "base_error": base.error, "certificate": anatomy.error,
        "sensitivity": min(anatomy.sensitivity.values()),
        "rotatable": anatomy.canonical,
    }  # fmt: skip
    row |= {"recovery": recovery(family, 1), "recovery_two": recovery(family, 2)}
    return row | contest(family, steps)


def recovery(family: str, teachers: int) -> float:
    """Relative error of the student of widened copies of one model against that model, float64, unseen inputs."""
    narrow = random_model(tiny_config(family))
    config = narrow.config
    batches = [dummy_inputs(config, 24, 12, seed=100 + i, dtype=torch.float64) for i in range(6)]  # type: ignore[arg-type]
    wide: list[Any] = [(f"wide {seed}", widen(narrow, seed)) for seed in range(1, teachers + 1)]
    result = fuse_models(wide, 0.5, batches)
    inputs = dummy_inputs(config, 8, 12, seed=5, dtype=torch.float64)  # type: ignore[arg-type]
    found, wanted = logits_of(result.model, inputs), logits_of(narrow, inputs)
    if anatomy_has_no_head(narrow):
        # Features come back in another order: what stays is how tokens compare.
        found, wanted = (
            flat @ flat.T for flat in (found.reshape(-1, found.shape[-1]), wanted.reshape(-1, wanted.shape[-1]))
        )
    return float((found - wanted).abs().max() / wanted.abs().max())


def anatomy_has_no_head(model: nn.Module) -> bool:
    return inspect_config(model.config).output is not None  # type: ignore[arg-type]


def contest(family: str, steps: int) -> dict[str, Any]:
    """Two trained tiny teachers, halved: refit against evenly spaced slices, on samples that neither has seen."""
    small = tiny_config(family)
    fields = inspect_config(small).fields
    values = {f: 2 * getattr(small, f) for f, m in fields.items() if m in ("hidden", "heads", "groups")}
    values |= {f: 2 * getattr(small, f) for f, m in fields.items() if m == "ffn" and getattr(small, f)}
    config = with_fields(small, values)
    teachers = [(f"seed {seed}", train_briefly(config, seed, steps)) for seed in (1, 2)]
    task = task_for(config)
    calibration, unseen = ([without_labels(task.batch(first + i)) for i in range(8)] for first in (1, 101))
    start = time.perf_counter()
    mean = FusionOptions(weights="equal", mixture="probabilities")
    fused = fuse_models(teachers, 0.5, calibration, mean)
    seconds = time.perf_counter() - start
    slices = FusionOptions(residual="slice", inner="slice", refit=False)
    sliced = fuse_models(teachers, 0.5, calibration, slices)
    models = [model for _, model in teachers]
    refit, slicing = (distance(student.model, models, calibration, unseen) for student in (fused, sliced))
    return {
        "teachers": {name: distance(model, models, calibration, unseen) for name, model in teachers},
        "refit": refit, "slicing": slicing,
        "choice": fused.report["choice"]["residual"], "fuse_seconds": seconds, "onnx": onnx(fused.model),
    }  # fmt: skip


def onnx(model: Any) -> dict[str, float] | str:
    """The largest relative difference of every file, or why there is none."""
    try:
        return largest_differences(model)
    except UserError as error:
        return str(error)


@torch.no_grad()
def distance(model: Any, teachers: list[Any], calibration: list[LabelledBatch], batches: list[LabelledBatch]) -> float:
    """KL(ensemble || model) per token or sample; of a model without a head through a linear probe.

    The probe is fitted by least squares on the calibration samples, to the logits of the probe that the teachers were
    trained with: features are there to be read so.
    """
    if not anatomy_has_no_head(model):
        shares = [1 / len(teachers)] * len(teachers)
        return mean_kl(model, batches, [ensemble_predictions(teachers, shares, batch) for batch in batches])
    wanted = mean_log_probs(teachers, calibration)
    read = torch.linalg.lstsq(_with_ones(pooled(model, calibration)), wanted - wanted.mean(1, keepdim=True)).solution
    found, wanted = (_with_ones(pooled(model, batches)) @ read).log_softmax(-1), mean_log_probs(teachers, batches)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


def pooled(model: Any, batches: list[LabelledBatch]) -> Tensor:
    """The mean of the last hidden state over tokens, one row a sample."""
    return torch.cat([logits_of(model, batch).mean(dim=1) for batch in batches]).double()


def mean_log_probs(teachers: list[Any], batches: list[LabelledBatch]) -> Tensor:
    """Log of the mean of what the teachers' own probe says."""
    found = [(pooled(t, batches) @ probe_of(t.config).double()).log_softmax(-1) for t in teachers]
    return torch.stack(found).logsumexp(dim=0) - math.log(len(found))


def _with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)


def markdown(rows: dict[str, dict[str, Any]], command: str, machine: dict[str, Any]) -> str:
    """The page."""
    lines = [_HEAD.format(command=command, **machine)]
    for family, row in rows.items():
        if "error" in row:
            lines.append(f"| {family} | {row['error']} | | | | | | | | |")
            continue
        worst = max(row["onnx"].values()) if isinstance(row["onnx"], dict) else None
        lines.append(
            f"| {family} | `{row['class']}` | {row['certificate']:.0e} | {row['sensitivity']:.0e} "
            f"| {row['recovery']:.0e}, {row['recovery_two']:.0e} "
            f"| {row['slicing']:.3g} | {row['refit']:.3g} | {row['slicing'] / row['refit']:.1f} "
            f"| {'none' if worst is None else format(worst, '.0e')} | {row['base_seconds']:.1f} s |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="families to prove; all of them if omitted")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write; figures go beside it as .json")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps of a tiny teacher")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    figures = arguments.output.with_suffix(".json") if arguments.output else None
    machine = environment()
    rows = _kept(figures, machine)
    for family in arguments.families or FAMILIES:
        try:
            rows[family] = prove(family, arguments.steps)
        except UserError as error:
            rows[family] = {"error": str(error)}
        print(family, json.dumps(rows[family]), file=sys.stderr, flush=True)
        if arguments.output and figures:
            ordered = {name: rows[name] for name in FAMILIES if name in rows}
            command = f"python benchmarks/families/table.py -o {arguments.output}"
            arguments.output.write_text(markdown(ordered, command, machine), encoding="utf-8")
            found = {"command": command, "environment": machine, "families": ordered}
            figures.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if not arguments.output:
        print(markdown(rows, "python " + " ".join(["benchmarks/families/table.py", *sys.argv[1:]]), machine))


def _kept(figures: Path | None, machine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run with the same versions on the same machine; families asked for are made anew."""
    if figures is None or not figures.exists():
        return {}
    found = json.loads(figures.read_text(encoding="utf-8"))
    return dict(found["families"]) if found["environment"] == machine else {}


if __name__ == "__main__":
    main()
