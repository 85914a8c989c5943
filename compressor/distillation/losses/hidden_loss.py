"""Hidden states: the student's residual stream held to its teachers', carried over by the maps of the fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.distillation.losses.base import LOSSES, LossContext, LossInputs, token_mask
from compressor.errors import UserError

#: A target's energy below which nothing is divided by it.
_LEAST = 1e-12


def hidden_loss(student_hidden: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean over layers and tokens of the squared error as a share of the target's energy, token by token.

    A token with large values (a few have values many times those of the others) weighs no more than any other.

    Args:
        student_hidden: the student's hidden states [..., width], one per layer that is compared.
        targets: what they should be: the teachers' hidden states through the fixed maps of the fusion.  There is
            no learned projector, so what the loss asks for does not drift.

    Returns:
        0 if all layers agree, about 1 for a student of zeros; a scalar.
    """
    errors = [
        ((given - target).square().sum(-1) / target.square().sum(-1).clamp(min=_LEAST)).mean()
        for given, target in zip(student_hidden, targets, strict=True)
    ]
    return torch.stack(errors).mean()


@LOSSES.register("hidden")
class HiddenLoss:
    """`hidden_loss` behind every layer.

    Raises:
        UserError: the student was not fused, so that nothing is known that would carry hidden states over.
    """

    modules: Sequence[str]
    teachers_modules: Sequence[Sequence[str]]

    def __init__(self, setting: LossContext) -> None:
        if not setting.passages:
            raise UserError(
                "finetune.losses: hidden needs the transport of a fusion, and this student comes without one: fuse it, "
                "or leave hidden out"
            )
        self._passages = setting.passages
        #: Maps on the device of the models, by those that they are copies of.
        self._moved: dict[int, Tensor] = {}
        self.modules = [passage.layer for passage in self._passages]
        # A teacher that has no part in the student's coordinates is not watched.
        self.teachers_modules = [
            [one.layers[k] for one in self._passages if one.pushes[k] is not None] for k in range(len(setting.weights))
        ]

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        mask = inputs.get("attention_mask")
        return int(mask.sum()) if mask is not None else len(next(iter(inputs.values())))

    def mean(self, seen: LossInputs) -> Tensor:
        given, targets = [], []
        for passage in self._passages:
            # Several tensors where one layer runs several times.
            for call, own in enumerate(seen.watched[passage.layer]):
                mask = token_mask(seen.inputs, own, decoder=passage.decoder)
                theirs = zip(seen.teachers_watched, passage.layers, passage.pushes, strict=True)
                parts = [
                    self._carried(watched[layer][call], push) for watched, layer, push in theirs if push is not None
                ]
                targets.append(torch.stack(parts).sum(0)[mask])
                given.append(own[mask].to(targets[-1]))
        return hidden_loss(given, targets)

    def _carried(self, values: Tensor, push: Tensor) -> Tensor:
        """A teacher's hidden states in the student's coordinates, float32 whatever they are."""
        if push.device != values.device:
            push = self._moved.setdefault(id(push), push.to(values.device))
        return values.to(push) @ push
