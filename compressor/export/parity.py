"""The proof that an ONNX file computes what the model computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.errors import ParityError
from compressor.models.inputs import dummy_inputs, is_image_config
from compressor.models.quiet import one_line

#: Tokens of the text inputs that are compared; each batch size is compared at each length, with padding and without.
LENGTHS = (16, 7)


@dataclass(frozen=True)
class ParityCase:
    """One input: its size and the largest difference on it; `length` is `None` for images."""

    batch: int
    length: int | None
    padded: bool
    max_abs: float
    max_rel: float


@dataclass(frozen=True)
class ParityReport:
    """The largest differences over all cases; relative means to the largest logit of the case."""

    max_abs: float
    max_rel: float
    tolerance: float
    cases: tuple[ParityCase, ...]


def check_parity(
    path: str | Path,
    model: PreTrainedModel,
    *,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
) -> ParityReport:
    """Check an ONNX file and compare ONNX Runtime's logits with torch's on random inputs.

    Args:
        path: the file, whose inputs are named as the model's.
        model: the float32 model on the CPU that it was made from, in eval mode.
        tolerance: largest allowed max|onnx − torch| / max|torch| of any case.
        batch_sizes: samples per case; text is compared at two lengths each, with and without padding.
        seed: of the random inputs.

    Raises:
        ParityError: the file is not valid ONNX, does not run, gives other shapes, or differs by more than `tolerance`.
    """
    session = _open(path)
    cases = []
    for batch in batch_sizes:
        for length, padded, inputs in _inputs(model, batch, seed):
            largest = _compare(path, session, model, inputs)
            cases.append(ParityCase(batch, length, padded, *largest))
    report = ParityReport(max(c.max_abs for c in cases), max(c.max_rel for c in cases), tolerance, tuple(cases))
    if not report.max_rel <= tolerance:
        worst = max(cases, key=lambda case: case.max_rel)
        raise ParityError(
            f"{path} differs from torch by {report.max_rel:.2e} of the largest logit at batch {worst.batch} "
            f"({report.max_abs:.2e} absolute), more than the tolerance of {tolerance:.0e}"
        )
    return report


def _open(path: str | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        onnx.checker.check_model(str(path), full_check=True)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # Both libraries raise classes of their own, of many kinds, for a broken file.
    except Exception as error:
        raise ParityError(f"{path} is not an ONNX file that runs: {one_line(error)}") from error


def _inputs(model: PreTrainedModel, batch: int, seed: int) -> list[tuple[int | None, bool, dict[str, Tensor]]]:
    config = model.config
    if is_image_config(config):
        return [(None, False, dummy_inputs(config, batch, seed=seed))]
    found: list[tuple[int | None, bool, dict[str, Tensor]]] = []
    for length in LENGTHS:
        inputs = dummy_inputs(config, batch, length, seed=seed)
        found.append((length, False, inputs))
        pad = getattr(config, "pad_token_id", None)
        shorter = {name: value.clone() for name, value in inputs.items()}
        shorter["input_ids"][0, length // 2 :] = pad if isinstance(pad, int) and 0 <= pad < config.vocab_size else 0
        shorter["attention_mask"][0, length // 2 :] = 0
        found.append((length, True, shorter))
    return found


def _compare(
    path: str | Path, session: onnxruntime.InferenceSession, model: PreTrainedModel, inputs: Mapping[str, Tensor]
) -> tuple[float, float]:
    with torch.inference_mode():
        expected = model(**inputs, return_dict=True).logits.numpy().astype(np.float64)
    try:
        given = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
    except Exception as error:
        raise ParityError(f"{path} does not run in ONNX Runtime: {one_line(error)}") from error
    if given.shape != expected.shape:
        raise ParityError(f"{path} gives logits of shape {given.shape} where torch gives {expected.shape}")
    if not np.isfinite(given).all():
        raise ParityError(f"{path} gives logits that are not finite")
    largest = float(np.abs(given - expected).max())
    return largest, largest / max(1e-12, float(np.abs(expected).max()))
