"""The one table of tasks: which class names mean a task, its metrics, which logits count, how its text is read.

A new task is an entry of `TASKS` here and a reader of its samples in `compressor.data.batches.READERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from compressor.errors import UnsupportedError

#: Label of positions where nothing is predicted, as in transformers.
IGNORED = -100
#: `problem_type` of classifiers that do not choose one class of several.
UNANSWERED = ("regression", "multi_label_classification")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: its key in `TASKS`.
        heads: endings of the class names of transformers that are made for it.
        metrics: "accuracy", "f1" or "perplexity", the main one first; () if nothing can be measured.
        mask: name of the input [B, T] that is 1 at the positions that count; None for one answer [C] a sample.
        shift: whether the logits of position t predict the label of position t + 1.
        packed: whether texts are joined and cut into blocks.
        ends: whether a block ends with the tokenizer's closing tokens, as well as starting with its opening ones.
        columns: whether labels are a column of the data, which may be missing, rather than the text itself.
    """

    name: str
    heads: tuple[str, ...]
    metrics: tuple[str, ...]
    mask: str | None = None
    shift: bool = False
    packed: bool = False
    ends: bool = False
    columns: bool = False

    @property
    def temperature(self) -> float:
        """The default temperature of a distillation.

        Perplexity is measured on unsoftened probabilities, and softening them mostly raises unlikely words. Accuracy
        counts right and wrong alone, and softened probabilities show which classes come close.
        """
        return 1.0 if "perplexity" in self.metrics else 2.0

    def counted(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The logits without those of padding, [P, C].

        For masked language models these are the logits of all tokens, masked or not: teachers predict each of them.

        Args:
            logits: [B, T, C], or [B, C] with one answer a sample; or anything of that shape made from them.
            inputs: the batch.
        """
        if self.mask is None or logits.dim() < 3:
            return logits
        mask = inputs.get(self.mask)
        return logits.flatten(0, -2) if mask is None else logits[mask.bool().to(logits.device)]

    def answered(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The logits with a known label, [P, C], and these labels, [P]; labels below 0 are unknown or ignored.

        Args:
            logits: as in `counted`.
            labels: [B] or [B, T], as the model in transformers takes them.
        """
        if self.shift and logits.dim() > 2:
            logits, labels = logits[:, :-1], labels[:, 1:]
        known = labels >= 0
        return logits[known.to(logits.device)], labels[known]


#: Tasks by name; the first with a matching head counts, so the headless "Model" comes last.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("image-classification", ("ForImageClassification",), ("accuracy",), columns=True),
        Task("text-classification", ("ForSequenceClassification",), ("accuracy", "f1"), columns=True),
        Task(
            "token-classification", ("ForTokenClassification",), ("accuracy", "f1"), mask="attention_mask", columns=True
        ),
        Task("masked-lm", ("ForMaskedLM",), ("perplexity",), mask="attention_mask", packed=True, ends=True),
        Task(
            "causal-lm", ("ForCausalLM", "LMHeadModel"), ("perplexity",), mask="attention_mask", shift=True, packed=True
        ),
        Task("seq2seq-lm", ("ForConditionalGeneration",), ("perplexity",), mask="decoder_attention_mask"),
        Task("features", ("Model",), ()),
    )
}


def find_task(config: PretrainedConfig) -> Task:
    """The task of a config, by the class that `config.architectures` names first.

    Raises:
        UnsupportedError: the config names no class, or one whose task is not known.
    """
    names = config.architectures or []
    if not names:
        raise UnsupportedError(
            f"the {config.model_type} config names no architecture: add `architectures` to config.json"
        )
    return _task_of_class(names[0])


def task_of_model(model: Any) -> Task:
    """The task of a model, by the name of its class.

    Raises:
        UnsupportedError: no task has such a head.
    """
    return _task_of_class(type(model).__name__)


def _task_of_class(name: str) -> Task:
    heads = {head: task for task in TASKS.values() for head in task.heads}
    for head, task in heads.items():
        if name.endswith(head):
            return task
    raise UnsupportedError(f"{name} has a task that is not known here (known endings: {', '.join(heads)})")


def predicts_vocabulary(config: PretrainedConfig) -> bool:
    """Whether a model has a logit for every entry of its vocabulary, at each token."""
    metrics = find_task(config).metrics if config.architectures else ()
    return "perplexity" in metrics and isinstance(getattr(config, "vocab_size", None), int)


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether a model has classes with labels.

    Raises:
        UnsupportedError: as `find_task`.
    """
    return find_task(config).columns


def check_answers(config: PretrainedConfig, name: str) -> None:
    """Refuse classifiers that do not choose one class of several: their logits are no softmax.

    Raises:
        UnsupportedError: the model predicts a number, or says yes or no to every label.
    """
    if not config.architectures or not is_classifier(config):
        return
    kind = getattr(config, "problem_type", None)
    if (config.num_labels or 0) < 2 or kind in UNANSWERED:
        reason = f"problem_type {kind!r}" if kind in UNANSWERED else f"num_labels {config.num_labels}"
        raise UnsupportedError(
            f"{name} does not choose one of several classes ({reason}): regression and multi-label models cannot be "
            f"fused or measured yet"
        )


def check_measurable(config: PretrainedConfig, doing: str, name: str) -> Task:
    """The task of a model, which must have a head.

    Args:
        config: the model's.
        doing: the action that needs one, such as "evaluating", for the message.
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
