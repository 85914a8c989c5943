"""One task: what its models answer, and which answers count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.models.tasks.masks import resized_labels

#: Label of positions without prediction, as in transformers.
IGNORED = -100
#: Logit of an answer that is none, such as padding; finite, so that products with its probability 0 are 0.
IMPOSSIBLE = -1e4
#: Makes one tensor of logits [B, ..., C] of outputs, in the order of `Task.outputs`, and of the model's inputs.
ReadOutputs = Callable[[Sequence[Tensor], Mapping[str, Tensor]], Tensor]


def first_output(outputs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """The first output as it is."""
    return outputs[0]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        heads: endings of class names in transformers.
        metrics: of `compressor.bench.metrics`, the main one first, which names the tally of `compressor.bench.tallies`.
        answers: of `compressor.ensemble.answers.ANSWERS`: "classes" are chosen by a softmax, "frames" too, but labels
            do not say which frame has which, "labels" each by a sigmoid, "values" are as they are, "embeddings" count
            by their similarities, "boxes" are objects at places that have no order.
        outputs: names of the model's outputs that make an answer, also those of an exported file.
        read: makes one tensor of them [B, ..., C], the logits.
        dims: dimensions of the logits; 0: two, or three with a mask.
        mask: input [B, T], 1 at counted positions; None: all are counted.
        strides: kernel and stride of the convolutions from places of the mask to positions of the logits.
        choices: whether a sample is several texts, [B, C, T], and its answer one of them.
        blank: class of frames between symbols, of "frames".
        by_token: whether outputs are [B, T, ...] by token.
        shift: whether logits at t predict the label at t + 1.
        packed: whether texts are joined and cut into blocks.
        ends: whether blocks have closing tokens.
        columns: whether labels are a column.
        named: whether `id2label` names the outputs.
        auto: class of transformers that loads it.
        tag: name of the task on the Hub; "": its own.
    """

    name: str
    heads: tuple[str, ...]
    metrics: tuple[str, ...]
    answers: str = "classes"
    outputs: tuple[str, ...] = ("logits",)
    read: ReadOutputs = first_output
    dims: int = 0
    mask: str | None = None
    strides: tuple[tuple[int, int], ...] = ()
    blank: int = 0
    choices: bool = False
    by_token: bool = False
    shift: bool = False
    packed: bool = False
    ends: bool = False
    columns: bool = False
    named: bool = True
    auto: str = "AutoModel"
    tag: str = ""

    @property
    def plain(self) -> bool:
        """Whether the logits are the output `logits` as it is."""
        return self.outputs == ("logits",) and self.read is first_output

    @property
    def per_text(self) -> bool:
        """Whether there is one answer a text."""
        return self.name.startswith("text-")

    @property
    def temperature(self) -> float:
        """Default temperature of distillation.

        Softening mostly raises unlikely words, which harms perplexity; for accuracy it shows close classes.
        """
        unsoftened = self.answers in ("values", "embeddings", "boxes")
        return 1.0 if "perplexity" in self.metrics or unsoftened else 2.0

    @property
    def placed_labels(self) -> bool:
        """Whether labels say where in an image things are."""
        return self.logit_dims == 4 or self.answers == "boxes"

    @property
    def headless(self) -> bool:
        """Whether a model's own outputs are hidden states."""
        return self.name == "features" or self.answers == "embeddings"

    @property
    def one_class(self) -> bool:
        """Whether each sample has one of several classes as its label."""
        return self.columns and self.answers == "classes" and self.logit_dims == 2

    @property
    def logit_dims(self) -> int:
        """Dimensions of the logits."""
        return self.dims or (2 if self.mask is None else 3)

    def logits(self, output: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The logits [B, ..., C] of a model's or file's named outputs; None if it lacks one of `outputs`."""
        found = [output[name] for name in self.outputs if name in output]
        return self.read(found, inputs) if len(found) == len(self.outputs) else None

    def positions(self, inputs: Mapping[str, Tensor], length: int | None = None) -> Tensor | None:
        """Which of `length` positions count, bool [B, T]; None if all do, or the inputs have no fitting mask."""
        mask = None if self.mask is None else inputs.get(self.mask)
        if mask is None or not self.strides:
            return None if mask is None else mask.bool()
        counts, most = mask.long().sum(-1), mask.shape[-1]
        for kernel, stride in self.strides:
            counts, most = (counts - kernel) // stride + 1, (most - kernel) // stride + 1
        fits = length is None or length == most
        return torch.arange(most, device=mask.device) < counts[:, None] if fits else None

    def counted(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits without padding, [P, C]; masked language models count unmasked tokens too.

        Args:
            logits: [B, ..., C], or [B, C] with one answer a sample; boxes [B, Q, C] stay, as they have no order.
        """
        if logits.dim() < 3 or self.answers == "boxes":
            return logits
        mask = self.positions(inputs, logits.shape[1])
        if mask is None:
            return logits.flatten(0, -2)
        # Some models answer for the places of images too, which come before the text.
        return logits[:, -mask.shape[1] :][mask.to(logits.device)]

    def answered(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and labels, [P, C] and [P], without labels below 0; of values [P, C] both, without NaN.

        Args:
            logits: as in `counted`.
            labels: [B] or [B, ...]; float [B, C] of labels and values, [B, 1] of embeddings: how alike a text is to the
                one before it.
        """
        if self.answers != "classes":
            labels = labels.reshape(len(labels), -1)
            known = self.known(labels)
            return logits[known.to(logits.device)], labels[known]
        if self.shift and logits.dim() > 2:
            logits, labels = logits[:, :-1], labels[:, 1:]
        if labels.dim() == 3:
            labels = resized_labels(labels, logits)
        known = labels >= 0
        return logits[known.to(logits.device)], labels[known]

    def known(self, labels: Tensor) -> Tensor:
        """Which labels are known: [B] or [B, T] for classes; which rows of [B, C] for others."""
        if self.answers == "classes":
            return labels >= 0
        rows = labels.reshape(len(labels), -1)
        if self.answers in ("frames", "boxes"):
            return (rows > IGNORED).any(-1)
        return (torch.isfinite(rows) if self.answers in ("values", "embeddings") else rows >= 0).all(-1)
