"""The loss `hidden`.

FitNets (Romero et al. 2015, https://arxiv.org/abs/1412.6550), with the fusion's maps as projectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.distillation.losses.loss import LOSSES, LossContext, LossInputs, token_mask
from compressor.errors import UserError

#: Lower bound of a target's energy, which errors are divided by.
_MIN_ENERGY = 1e-12


def hidden_loss(student_hidden: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean over layers and tokens [..., width] of ‖error‖² / ‖target‖², so that large tokens do not dominate."""
    errors = [
        ((hidden - target).square().sum(-1) / target.square().sum(-1).clamp(min=_MIN_ENERGY)).mean()
        for hidden, target in zip(student_hidden, targets, strict=True)
    ]
    return torch.stack(errors).mean()


@LOSSES.register("hidden")
class HiddenLoss:
    """`hidden_loss` after every layer.

    Raises:
        UserError: the student was not fused.
    """

    modules: Sequence[str]
    teacher_modules: Sequence[Sequence[str]]

    def __init__(self, context: LossContext) -> None:
        if not context.layer_maps:
            raise UserError(
                "finetune.losses: hidden needs the transport of a fusion, and this student comes without one: fuse it, "
                "or leave hidden out"
            )
        self._layer_maps = context.layer_maps
        #: Copies of maps on the models' device, by the id of the original.
        self._moved: dict[int, Tensor] = {}
        self.modules = [layer_map.layer for layer_map in self._layer_maps]
        # Teachers without a part in the student's coordinates are not captured.
        self.teacher_modules = [
            [layer_map.layers[k] for layer_map in self._layer_maps if layer_map.pushes[k] is not None]
            for k in range(len(context.weights))
        ]

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        mask = inputs.get("attention_mask")
        return int(mask.sum()) if mask is not None else len(next(iter(inputs.values())))

    def mean(self, batch: LossInputs) -> Tensor:
        hidden, targets = [], []
        for layer_map in self._layer_maps:
            # Several calls where one layer runs several times.
            for call, states in enumerate(batch.student_outputs[layer_map.layer]):
                mask = token_mask(batch.inputs, states, decoder=layer_map.decoder)
                teachers = zip(batch.teacher_outputs, layer_map.layers, layer_map.pushes, strict=True)
                parts = [
                    self._pushed(outputs[layer][call], push) for outputs, layer, push in teachers if push is not None
                ]
                targets.append(torch.stack(parts).sum(0)[mask])
                hidden.append(states[mask].to(targets[-1]))
        return hidden_loss(hidden, targets)

    def _pushed(self, states: Tensor, push: Tensor) -> Tensor:
        if push.device != states.device:
            push = self._moved.setdefault(id(push), push.to(states.device))
        return states.to(push) @ push
