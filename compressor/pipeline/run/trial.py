"""Exports that are tried before a run."""

from __future__ import annotations

import copy
import tempfile

import torch
from transformers import PretrainedConfig

from compressor.anatomy.resize import BUILD_ERRORS, check_small, measure_growth
from compressor.errors import ParityError, UnsupportedError
from compressor.export.formats import EXPORT_FORMATS
from compressor.export.onnx import write_onnx
from compressor.export.opset import OpsetError
from compressor.models.configs.reading import model_class
from compressor.models.headless.configured import as_configured
from compressor.recipe import ExportOptions
from compressor.utils.logging import quiet_transformers, root_cause


def try_opset(config: PretrainedConfig, options: ExportOptions) -> None:
    """Write a shallow model of random weights with the opset, if one is named, and forget it.

    Other faults are left to the export itself, after which the student is still written.

    Raises:
        OpsetError: the opset lacks operations of the model, or ONNX Runtime does not run them.
    """
    if options.opset is None or not any(EXPORT_FORMATS.get(name).from_float for name in options.wanted):
        return
    try:
        shallow = measure_growth(config, 1).config
        check_small(shallow)
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            model = as_configured(model_class(config)(copy.deepcopy(shallow))).eval()
        with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
            # Two samples: some files run with one alone.
            write_onnx(
                model, scratch, cache=options.cache, tolerance=float("inf"), batch_sizes=(2,), opset=options.opset
            )
    except OpsetError:
        raise
    except ParityError as error:
        raise OpsetError(
            f"the files of {model_class(config).__name__} with opset {options.opset} do not run here: name another, or "
            f"leave it out ({root_cause(error, 120)})"
        ) from error
    except (UnsupportedError, *BUILD_ERRORS):
        return
