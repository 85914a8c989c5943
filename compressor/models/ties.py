"""Weights that are one tensor or several: as the tensors are, not as `tie_word_embeddings` says.

A model of one stack has one such choice, the flag.  An encoder–decoder has several tables, and some scale their head if
the flag is set: there the flag stays, and the config's `untied_weights` lists weights of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.models.configs.reading import model_class

#: The flag of transformers, and our field of weights that are not tied although it is set.
FLAG, UNTIED = "tie_word_embeddings", "untied_weights"
#: Model types that scale the head if the flag is set; others always set it, or keep the scale apart (T5).
_SCALED = ("switch_transformers",)


def settle_ties(model: PreTrainedModel, missing: Collection[str] = ()) -> tuple[str, list[str]]:
    """Make a model's config and ties what its weights are; its function stays.

    Args:
        missing: weights that its files lack; those that can be tied get their partner's values.

    Returns:
        A note on a config that said otherwise, or "", and what is missing still.
    """
    groups = tied_groups(model)
    filled = [name for names in groups for name in _fill(model, names, missing)]
    left = [name for name in missing if name not in filled]
    if not groups or set(left) & {name for names in groups for name in names}:
        return "", left
    apart = [name for names in groups for name in names[1:] if not _alike(model, name, names[0])]
    tied, listed = is_tied(model.config), getattr(model.config, UNTIED, None)
    if tied and not apart:
        _set_untied(model.config, [])
        _share(model, groups)
        return "", left
    if tied and model.config.is_encoder_decoder:
        _set_untied(model.config, apart)
        untie(model, apart)
        # Files of T5 1.1 say false, of which its config only keeps that outputs are not scaled.
        known = listed == sorted(apart) or getattr(model.config, "scale_decoder_outputs", True) is False
        return "" if known else _note(True, apart[0], groups), left
    if tied:
        _set_flag(model, False)
        untie(model, [name for names in groups for name in names[1:]])
        return _note(True, apart[0], groups), left
    _set_untied(model.config, [])
    if not apart and _can_tie(model.config):
        _set_flag(model, True)
        _share(model, groups)
        return _note(False, groups[0][1], groups), left
    return (f"its files lack {filled[0]}, which can be tied: its partner's values are taken" if filled else ""), left


def settled(model: PreTrainedModel) -> PreTrainedModel:
    """The model, or a copy whose config and ties are what its weights are."""
    groups = tied_groups(model)
    apart = [name for names in groups for name in names[1:] if not _alike(model, name, names[0])]
    if is_tied(model.config):
        right = sorted(apart) == list(getattr(model.config, UNTIED, []))
    else:
        right = not groups or bool(apart) or not _can_tie(model.config)
    if right:
        return model
    changed = copy.deepcopy(model)
    settle_ties(changed)
    return changed


def common_ties(configs: Sequence[PretrainedConfig]) -> list[PretrainedConfig]:
    """Configs that are tied alike: what is untied in one is in all, so that one student holds them.

    Raises:
        UnsupportedError: heads that are scaled with the tie.
    """
    flags = {is_tied(config) for config in configs}
    lists = [list(getattr(config, UNTIED, [])) for config in configs]
    if not can_be_tied(configs[0]) or (len(flags) == 1 and all(names == lists[0] for names in lists)):
        return list(configs)
    if len(flags) > 1 and configs[0].model_type in _SCALED:
        raise UnsupportedError(
            f"the teachers differ in {FLAG}, by which a {configs[0].model_type} scales its head: they cannot be fused"
        )
    changed = [copy.deepcopy(config) for config in configs]
    for config in changed:
        if len(flags) > 1:
            setattr(config, FLAG, False)
        _set_untied(config, () if len(flags) > 1 else (name for names in lists for name in names))
    return changed


def with_common_ties(models: Sequence[PreTrainedModel]) -> list[PreTrainedModel]:
    """Models that are tied alike; copies where one is changed.  Raises as `common_ties`."""
    changed = []
    for model, config in zip(models, common_ties([model.config for model in models]), strict=True):
        if config is not model.config:
            names = [name for group in tied_groups(model) for name in group[1:]]
            model = copy.deepcopy(model)
            if is_tied(model.config) and not is_tied(config):
                _set_flag(model, False)
            copy_ties(config, model.config)
            untie(model, getattr(config, UNTIED, ()) if is_tied(config) else names)
        changed.append(model)
    return changed


def copy_ties(source: PretrainedConfig, target: PretrainedConfig) -> None:
    """Give a config the ties of another."""
    if is_tied(source) != is_tied(target):
        setattr(target, FLAG, is_tied(source))
    _set_untied(target, getattr(source, UNTIED, ()))


def is_tied(config: PretrainedConfig) -> bool:
    """Whether the flag is set."""
    return bool(getattr(config, FLAG, False))


def can_be_tied(config: PretrainedConfig) -> bool:
    """Whether a config's class can tie weights; False without a known class."""
    with suppress(UnsupportedError):
        return bool(model_class(config)._tied_weights_keys)
    return False


def tied_groups(model: PreTrainedModel) -> list[list[str]]:
    """Names of weights that the model's class can tie; the source of each group first."""
    if not can_be_tied(model.config):
        return []
    with _flags_set(model):
        pairs = model.get_expanded_tied_weights_keys(all_submodels=True)
    known = {name for name, _ in (*_parameters(model), *model.named_buffers(remove_duplicate=False))}
    groups: dict[str, list[str]] = {}
    for target, source in pairs.items():
        if {target, source} <= known:
            groups.setdefault(source, [source]).append(target)
    return list(groups.values())


def untie(model: PreTrainedModel, names: Iterable[str] | None = None) -> PreTrainedModel:
    """Give weights a tensor of their own, in place; by default those that the config lists."""
    users: dict[int, int] = {}
    for _, parameter in _parameters(model):
        users[id(parameter)] = users.get(id(parameter), 0) + 1
    for name in getattr(model.config, UNTIED, ()) if names is None else names:
        parent, attribute = _place(model, name)
        parameter = getattr(parent, attribute)
        if isinstance(parameter, nn.Parameter) and users.get(id(parameter), 0) > 1:
            users[id(parameter)] -= 1
            setattr(parent, attribute, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
        model.all_tied_weights_keys.pop(name, None)
    return model


def _parameters(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


@contextmanager
def _flags_set(model: PreTrainedModel) -> Iterator[None]:
    """Set the flag of all configs, for the block."""
    configs = {id(config): config for config in _configs(model)}.values()
    before = [getattr(config, FLAG) for config in configs]
    try:
        _set_flag(model, True)
        yield
    finally:
        for config, value in zip(configs, before, strict=True):
            setattr(config, FLAG, value)


def _configs(model: PreTrainedModel) -> Iterator[PretrainedConfig]:
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and hasattr(module.config, FLAG):
            yield module.config


def _set_flag(model: PreTrainedModel, value: bool) -> None:
    for config in _configs(model):
        setattr(config, FLAG, value)


def _set_untied(config: PretrainedConfig, names: Iterable[str]) -> None:
    if listed := sorted(set(names)):
        setattr(config, UNTIED, listed)
    elif hasattr(config, UNTIED):
        delattr(config, UNTIED)


def _can_tie(config: PretrainedConfig) -> bool:
    """Whether the flag can be set, stays set in a file, and changes nothing else."""
    if config.model_type in _SCALED:
        return False
    try:
        return is_tied(type(config).from_dict({**config.to_dict(), FLAG: True}))
    # Families whose configs refuse it (dbrx).
    except ValueError:
        return False


def _fill(model: PreTrainedModel, names: Sequence[str], missing: Collection[str]) -> list[str]:
    """Give the missing weights of a group the values of one that is there; their names."""
    absent = [name for name in names if name in missing]
    if not absent or len(absent) == len(names):
        return []
    source = _tensor(model, next(name for name in names if name not in missing))
    with torch.no_grad():
        for name in absent:
            _tensor(model, name).copy_(source)
    return absent


def _share(model: PreTrainedModel, groups: Iterable[Sequence[str]]) -> None:
    """Make each group one tensor."""
    for source, *targets in groups:
        for target in targets:
            if _tensor(model, target) is not _tensor(model, source):
                parent, attribute = _place(model, target)
                setattr(parent, attribute, _tensor(model, source))
            model.all_tied_weights_keys[target] = source


def _alike(model: PreTrainedModel, first: str, second: str) -> bool:
    one, other = _tensor(model, first), _tensor(model, second)
    if one is other or one.is_meta or other.is_meta:
        return one is other
    return one.shape == other.shape and torch.equal(one, other)


def _tensor(model: PreTrainedModel, name: str) -> Tensor:
    parent, attribute = _place(model, name)
    tensor: Tensor = getattr(parent, attribute)
    return tensor


def _place(model: PreTrainedModel, name: str) -> tuple[nn.Module, str]:
    parent, _, attribute = name.rpartition(".")
    return model.get_submodule(parent), attribute


def _note(tied: bool, name: str, groups: Iterable[Sequence[str]]) -> str:
    partner = next(names[0] for names in groups if name in names[1:])
    said = f"{FLAG} is {str(tied).lower()}"
    if tied:
        return f"{said}, but {name} differs from {partner}: each is taken as it is stored"
    return f"{said}, but {name} is {partner}: they are taken as one weight"
