"""The tasks that models are made for: what is measured, which positions of the logits count, and how text is read.

A new task is one entry of `TASKS` here, and one way to read its samples in `compressor.data.text_readers`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from compressor.errors import UnsupportedError
from compressor.models.inputs import TASK_OF_HEAD as ENDINGS
from compressor.models.inputs import is_image_config, task_of

#: What labels are where nothing is to be predicted, as in transformers.
IGNORED = -100
#: Kinds of classifiers, by their config's `problem_type`, whose answer is not one class of several.
UNANSWERED = ("regression", "multi_label_classification")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: one of the values of `compressor.models.inputs.TASKS`.
        metrics: what a model is measured by, the first one first: "accuracy", "f1" or "perplexity"; () if nothing.
        mask: the input [B, T] whose ones are the positions that count; None for one answer [C] a sample.
        shift: whether the logits of position t answer the label of position t + 1.
        packed: whether texts are joined and cut into blocks.
        ends: whether a block ends as the tokenizer ends a text, as well as beginning so.
        columns: whether labels are a column of the data (and may be missing), rather than the text itself.
    """

    name: str
    metrics: tuple[str, ...]
    mask: str | None = None
    shift: bool = False
    packed: bool = False
    ends: bool = False
    columns: bool = False

    @property
    def temperature(self) -> float:
        """Of a distillation that is asked for none.

        Perplexity is of the probabilities as they are, and softened ones say most about words that nobody expects.
        Where an answer counts as right or wrong, softened ones say more about the classes that come near it.
        """
        return 1.0 if "perplexity" in self.metrics else 2.0

    def counted(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The answers that count, [P, C]: those of padding do not.

        A masked language model's are those of all tokens, masked or not: its teachers' opinion is known of each.

        Args:
            logits: [B, T, C], or [B, C] where a sample has one answer; or anything made from them in that shape.
            inputs: the batch.
        """
        if self.mask is None or logits.dim() < 3:
            return logits
        mask = inputs.get(self.mask)
        return logits.flatten(0, -2) if mask is None else logits[mask.bool().to(logits.device)]

    def answered(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The answers that have a known label, [P, C] and [P]; labels below 0 are unknown, or not asked for.

        Args:
            logits: as in `counted`.
            labels: [B] or [B, T], as the model in transformers takes them.
        """
        if self.shift and logits.dim() > 2:
            logits, labels = logits[:, :-1], labels[:, 1:]
        known = labels >= 0
        return logits[known.to(logits.device)], labels[known]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("image-classification", ("accuracy",), columns=True),
        Task("text-classification", ("accuracy", "f1"), columns=True),
        Task("token-classification", ("accuracy", "f1"), mask="attention_mask", columns=True),
        Task("masked-lm", ("perplexity",), mask="attention_mask", packed=True, ends=True),
        Task("causal-lm", ("perplexity",), mask="attention_mask", shift=True, packed=True),
        Task("seq2seq-lm", ("perplexity",), mask="decoder_attention_mask"),
        Task("features", ()),
    )
}


def find_task(config: PretrainedConfig) -> Task:
    """The task of a config.

    Raises:
        UnsupportedError: the config names no architecture, or one whose task is not known.
    """
    return TASKS[task_of(config)]


def task_of_model(model: Any) -> Task:
    """The task that the name of a model's class stands for.

    Raises:
        UnsupportedError: the name tells none.
    """
    name = type(model).__name__
    for ending, task in ENDINGS.items():
        if name.endswith(ending):
            return TASKS[task]
    raise UnsupportedError(f"{name} has a task that is not known here (known endings: {', '.join(ENDINGS)})")


def pass_options(model: Any) -> dict[str, Any]:
    """Arguments of every forward pass: a cache of keys and values, which nobody reads, is not made."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def predicts_vocabulary(config: PretrainedConfig) -> bool:
    """Whether a model answers every token with its whole vocabulary."""
    metrics = find_task(config).metrics if config.architectures else ()
    return "perplexity" in metrics and isinstance(getattr(config, "vocab_size", None), int)


def logits_of_sample(config: PretrainedConfig, inputs: Mapping[str, Any]) -> int:
    """How many logits one sample of a batch [B, T] makes where models answer with their vocabulary; 1 elsewhere."""
    tokens = inputs.get("decoder_input_ids", inputs.get("input_ids"))
    return int(tokens.shape[-1]) * config.vocab_size if tokens is not None and predicts_vocabulary(config) else 1


def check_answers(config: PretrainedConfig, name: str) -> None:
    """Refuse classifiers whose answer is not one class of several: a softmax says nothing of theirs.

    Raises:
        UnsupportedError: the model gives a number, or says yes or no to every label.
    """
    if not config.architectures or not task_of(config).endswith("classification"):
        return
    kind = getattr(config, "problem_type", None)
    if (config.num_labels or 0) < 2 or kind in UNANSWERED:
        what = f"problem_type {kind!r}" if kind in UNANSWERED else f"num_labels {config.num_labels}"
        raise UnsupportedError(
            f"{name} does not choose one of several classes ({what}): regression and multi-label models cannot be "
            f"fused or measured yet"
        )


def check_measurable(config: PretrainedConfig, doing: str, name: str) -> Task:
    """Refuse models without a head, of which nothing can be measured.

    Args:
        config: the model's.
        doing: what is to be done, for the message, such as "evaluating".
        name: the model, as the user wrote it.

    Raises:
        UnsupportedError: the model has no head, or does not choose one of several classes.
    """
    check_answers(config, name)
    task = find_task(config)
    if not task.metrics:
        raise UnsupportedError(
            f"{doing} needs a head that answers, and {name} ({task.name}) has none: it can be fused only"
        )
    return task


def reads(config: PretrainedConfig) -> str:
    """What a model reads: "image" or "text".

    Raises:
        UnsupportedError: something else.
    """
    if is_image_config(config):
        return "image"
    if getattr(config, "vocab_size", None) is None or hasattr(config, "num_mel_bins"):
        raise UnsupportedError(f"data of {config.model_type} models cannot be read yet: images and text can")
    return "text"


def pad_id(config: PretrainedConfig) -> int:
    """The token that fills up shorter samples of a batch: the model's own, else its end token, else 0."""
    vocabulary = getattr(config, "vocab_size", None) or 0
    for name in ("pad_token_id", "eos_token_id"):
        found = getattr(config, name, None)
        found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, int) and 0 <= found < vocabulary:
            return found
    return 0
