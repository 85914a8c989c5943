"""From a config to a certified anatomy.

Traces show structure, enlarged fields their meaning; permutations prove it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from transformers import PretrainedConfig

from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE, certify, certify_jointly
from compressor.anatomy.expand import expand
from compressor.anatomy.experts import with_experts
from compressor.anatomy.fields import Meaning, interpret
from compressor.anatomy.flow import Flow
from compressor.anatomy.mixing import with_mixing
from compressor.anatomy.proof import pin_insensitive
from compressor.anatomy.resize import BUILD_ERRORS, measure_growth
from compressor.anatomy.rotary_pairs import with_pairs
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.study import Study, study_smallest
from compressor.anatomy.unreached import keep_unproven, keep_unsized, settle_unreached
from compressor.anatomy.weakening import weaken_failing
from compressor.errors import CertificateError
from compressor.models.configs.reading import named
from compressor.utils.logging import one_line
from compressor.utils.threads import torch_threads

#: Layers of a small model: first, middle, last.
DEPTH = 3


def inspect_config(config: PretrainedConfig) -> Anatomy:
    """A config's certified anatomy, without weights; cached.

    Raises:
        CertificateError: a permutation changes logits.
        UnsupportedError: it does not run at a small size, or has no layers.
    """
    config = named(config)
    key = _cache_key(config)
    if key not in _KNOWN:
        # In small models threads wait for each other: two to six times slower.
        with torch_threads(1):
            try:
                _KNOWN[key] = _inspect(config)
            except BUILD_ERRORS as error:
                raise CertificateError(
                    f"{config.model_type}: no consistent anatomy was found ({type(error).__name__}: "
                    f"{one_line(error, 160)}); this architecture is not understood, so nothing was touched"
                ) from error
    return _KNOWN[key]


def small_config(config: PretrainedConfig) -> PretrainedConfig:
    """The small config on which a config's anatomy was proven."""
    inspect_config(config)
    config = named(config)
    return _SMALL[_cache_key(config)]


def _cache_key(config: PretrainedConfig) -> str:
    """Class and values of a config."""
    values = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    return f"{type(config).__name__} {json.dumps(values, sort_keys=True, default=str)}"


#: {cache key of a config: anatomy}; an inspection takes most of a second.
_KNOWN: dict[str, Anatomy] = {}
#: {cache key of a config: the small config of its proof}.
_SMALL: dict[str, PretrainedConfig] = {}


def _inspect(config: PretrainedConfig) -> Anatomy:
    skeleton = measure_growth(config, DEPTH)
    study = study_smallest(skeleton)
    layers = [layer for stack in study.stacks if stack.fields for layer in stack.layers]
    # Convolutions before a stream are not alike, so none stands for another.
    unlike = [each.prefix for each in skeleton.lists if not any(layer.startswith(each.prefix) for layer in layers)]
    if unlike:
        skeleton = measure_growth(config, DEPTH, unlike)
        study = study_smallest(skeleton)
    _SMALL[_cache_key(config)] = study.config
    proven = _certified(config, study, with_experts(study, study.anatomy(), skeleton))
    table = replace(study.table, spaces=dict(proven.spaces), axes=dict(proven.axes))
    sizes = interpret(skeleton, study.config, table, lambda changed: study.like(changed, skeleton).table)
    proven, sizes = keep_unproven(study, proven, skeleton, sizes)
    proven = keep_unsized(proven, sizes)
    _check_narrowable(config, study, proven, sizes.meanings)
    small = _with_flow(study, proven)
    if sizes.many_heads is not None:
        # With few heads, blocks of several look like heads.
        larger = study.like(sizes.many_heads, skeleton)
        _check(config, larger.anatomy(), larger, certify_jointly(larger.model, larger.trials, larger.anatomy()))
    small = settle_unreached(study, small, skeleton, sizes)
    return expand(small, config, skeleton, sizes)


def _certified(config: PretrainedConfig, study: Study, anatomy: Anatomy) -> Anatomy:
    """The certified anatomy, shared by teacher and student."""
    key = _cache_key(study.config)
    if key in _PROVEN and _PROVEN[key][0] == anatomy:
        return _PROVEN[key][1]
    standing, errors = anatomy, _errors(study, anatomy, certify_jointly)
    if not _holds(errors):
        alone = _errors(study, anatomy, certify)
        standing = weaken_failing(study, anatomy, [name for name in anatomy.spaces if _stands(alone, name)])
        errors = certify_jointly(study.model, study.trials, standing)
    if not _holds(errors):
        _check(config, standing, study, certify(study.model, study.trials, standing))
    proven = pin_insensitive(study, replace(standing, errors=errors))
    _PROVEN[key] = anatomy, proven
    return proven


def _with_flow(study: Study, proven: Anatomy) -> Anatomy:
    """A certified anatomy with the flow between its spaces, shared by teacher and student."""
    key = _cache_key(study.config)
    if key not in _COMPLETE or _COMPLETE[key][0] != proven:
        paired = with_mixing(study.model, study.trials, with_pairs(study.model, study.trials, proven))
        _COMPLETE[key] = proven, Flow(study.model, study.trials, paired, study.table.tied).complete()
    return _COMPLETE[key][1]


def _errors(study: Study, anatomy: Anatomy, proof: Callable[..., dict[str, float]]) -> dict[str, float]:
    """The errors of a proof; infinite where permutations cannot be applied."""
    try:
        return proof(study.model, study.trials, anatomy)
    except CertificateError:
        return {"all": float("inf")}


def _holds(errors: Mapping[str, float]) -> bool:
    return max(map(_badness, errors.values())) <= CERTIFICATE_TOLERANCE


def _stands(errors: Mapping[str, float], space: str) -> bool:
    return errors.get(space, float("inf")) <= CERTIFICATE_TOLERANCE


def _check(config: PretrainedConfig, anatomy: Anatomy, study: Study, errors: Mapping[str, float]) -> None:
    """Refuse an anatomy whose permutations change the answers, by the worst space."""
    worst = max(errors, key=lambda name: _badness(errors[name]))
    if not errors[worst] <= CERTIFICATE_TOLERANCE:
        raise CertificateError(_refusal(config, anatomy, study, worst, errors[worst]))


def _check_narrowable(
    config: PretrainedConfig, study: Study, anatomy: Anatomy, meanings: Mapping[str, Meaning]
) -> None:
    """Refuse an anatomy of which nothing could become narrower."""
    if {Meaning.HIDDEN, Meaning.FFN} & set(meanings.values()):
        return
    placed = [space.name for space in anatomy.residuals if space.placed]
    raise CertificateError(
        f"{config.model_type}: coordinates of {', '.join(placed)} have fixed places ({anatomy.pinned[placed[0]]}: a "
        f"constant that differs along them is added, such as sinusoidal positions, or an operation treats them "
        f"unlike each other){study.unknown_operations()}, and no field sizes hidden units; so nothing could become "
        f"narrower, and nothing was touched"
    )


def _badness(error: float) -> float:
    """The error, or infinity if not a number."""
    return error if error == error else float("inf")


#: {cache key of a small config: its anatomy before and after the certificate}.
_PROVEN: dict[str, tuple[Anatomy, Anatomy]] = {}
#: {cache key of a small config: its certified anatomy without and with flow}.
_COMPLETE: dict[str, tuple[Anatomy, Anatomy]] = {}


def _refusal(config: PretrainedConfig, anatomy: Anatomy, study: Study, space: str, error: float) -> str:
    return (
        f"{config.model_type}: permuting {space} changes the logits by {error:.1e} "
        f"(parameters: {', '.join(anatomy.parameters_of(space)[:4]) or 'all'}){study.unknown_operations()}; this "
        f"architecture is not understood, so nothing was touched. An operation that treats these coordinates unlike "
        f"each other needs a rule in anatomy/rules"
    )
