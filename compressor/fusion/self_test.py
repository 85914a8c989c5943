"""A fusion tried at tiny size before a real one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import all_outputs, feature_place
from compressor.anatomy.infer import small_config
from compressor.anatomy.trials import complete_inputs
from compressor.errors import CertificateError
from compressor.fusion.fuse import fuse_models
from compressor.recipe import FusionOptions

#: Largest relative error of a student that should equal its teacher; families that compute norms in float32 reach 1e-6.
RECOVERY_TOLERANCE = 1e-4
_TOKENS = 9
#: Seeds of calibration batches: units that are off on all of them are not refitted.
_SEEN, _UNSEEN = range(1, 6), 6
#: No pilots: at width 1 transport alone is exact.
_OPTIONS = FusionOptions(residual="barycentre", inner="transport")


@torch.no_grad()
def check_recovery(config: PretrainedConfig) -> float:
    """Fuse a random teacher of the config's small model at width 1, and compare on inputs that calibration did not see.

    Returns:
        The largest relative error of any answer.

    Raises:
        CertificateError: the student is not its teacher.
    """
    small = small_config(config)
    key = small.to_json_string()
    if key not in _RECOVERED:
        teacher: Any = random_model(small)
        seen = [complete_inputs(teacher, teacher.config, 8, _TOKENS, seed, torch.float64) for seed in _SEEN]
        with torch.random.fork_rng(devices=[]):
            student = fuse_models([("teacher", teacher)], 1.0, seen, _OPTIONS).model
        unseen = complete_inputs(teacher, teacher.config, 4, _TOKENS, _UNSEEN, torch.float64)
        _RECOVERED[key] = _error(all_outputs(teacher, unseen), all_outputs(student, unseen))
    if not _RECOVERED[key] <= RECOVERY_TOLERANCE:
        raise CertificateError(
            f"{config.model_type}: a small random model of this config, fused by itself at width 1, answers otherwise "
            f"than before by {_RECOVERED[key]:.1e}; what goes wrong there would go wrong with these teachers too, so "
            f"nothing was touched"
        )
    return _RECOVERED[key]


#: {small config as JSON: error}.
_RECOVERED: dict[str, float] = {}


def _error(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """Largest relative difference; of features, which come in another order, that of their products."""
    errors = [0.0]
    for name, want in wanted.items():
        got = found[name]
        if not any("logits" in key for key in wanted):
            want, got = (vectors @ vectors.T for vectors in map(_vectors, (want, got)))
        errors.append(float((got - want).abs().max() / want.abs().max().clamp(min=1e-30)))
    return max(errors, key=lambda error: error if error == error else float("inf"))


def _vectors(output: Tensor) -> Tensor:
    """Feature vectors [N, C]."""
    place = feature_place(output)
    return output.movedim(place, -1).reshape(-1, output.shape[place])
