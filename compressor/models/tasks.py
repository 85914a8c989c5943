"""The table of tasks.

A new task needs an entry of `TASKS` and a reader in `compressor.data.batches.READERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto

from compressor.errors import UnsupportedError
from compressor.models.sentence_pooling import pooling_of

#: Label of positions without prediction, as in transformers.
IGNORED = -100
#: What outputs mean: one class of several, labels that hold or do not, values, or embeddings that are compared.
AnswerKind = Literal["classes", "labels", "values", "embeddings"]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        heads: endings of class names in transformers.
        metrics: of `compressor.bench.metrics`, the main one first.
        answers: "classes" are chosen by a softmax, "labels" each by a sigmoid, "values" are as they are, "embeddings"
            count by their similarities.
        mask: input [B, T], 1 at counted positions; None for one answer [C] a sample.
        shift: whether logits at t predict the label at t + 1.
        packed: whether texts are joined and cut into blocks.
        ends: whether blocks have closing tokens.
        columns: whether labels are a column.
    """

    name: str
    heads: tuple[str, ...]
    metrics: tuple[str, ...]
    answers: AnswerKind = "classes"
    mask: str | None = None
    shift: bool = False
    packed: bool = False
    ends: bool = False
    columns: bool = False

    @property
    def per_text(self) -> bool:
        """Whether there is one answer a text."""
        return self.name.startswith("text-")

    @property
    def temperature(self) -> float:
        """Default temperature of distillation.

        Softening mostly raises unlikely words, which harms perplexity; for accuracy it shows close classes.
        """
        return 1.0 if "perplexity" in self.metrics or self.answers in ("values", "embeddings") else 2.0

    @property
    def headless(self) -> bool:
        """Whether the model's outputs are hidden states."""
        return self.name in ("features", "sentence-embedding")

    def counted(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits without padding, [P, C]; masked language models count unmasked tokens too.

        Args:
            logits: [B, T, C], or [B, C] with one answer a sample.
        """
        if self.mask is None or logits.dim() < 3:
            return logits
        mask = inputs.get(self.mask)
        if mask is None:
            return logits.flatten(0, -2)
        # Some models answer for the places of images too, which come before the text.
        return logits[:, -mask.shape[1] :][mask.bool().to(logits.device)]

    def answered(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and labels, [P, C] and [P], without labels below 0; of values [P, C] both, without NaN.

        Args:
            logits: as in `counted`.
            labels: [B] or [B, T]; float [B, C] of labels and values, [B, 1] of embeddings: the similarity of a text to
                the one before it.
        """
        if self.answers != "classes":
            labels = labels.reshape(len(labels), -1)
            known = self.known(labels)
            return logits[known.to(logits.device)], labels[known]
        if self.shift and logits.dim() > 2:
            logits, labels = logits[:, :-1], labels[:, 1:]
        known = labels >= 0
        return logits[known.to(logits.device)], labels[known]

    def known(self, labels: Tensor) -> Tensor:
        """Which labels are known: [B] or [B, T] for classes; which rows of [B, C] for labels and values."""
        if self.answers == "classes":
            return labels >= 0
        rows = labels.reshape(len(labels), -1)
        return (rows >= 0 if self.answers == "labels" else torch.isfinite(rows)).all(-1)


#: (ending of a name, metrics, answers) of tasks of images and of texts alike.
_OTHER_ANSWERS: tuple[tuple[str, tuple[str, ...], AnswerKind], ...] = (
    ("multi-label", ("f1",), "labels"),
    ("regression", ("spearman", "rmse"), "values"),
)
#: The first task with a matching head counts, so the headless "Model" comes last.
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
        # A headless model whose folder says how its tokens are pooled.
        Task("sentence-embedding", (), ("similarity", "neighbours", "spearman"), answers="embeddings"),
        *(
            Task(f"{kind}-{name}", (), metrics, answers=answers, columns=True)
            for kind in ("image", "text")
            for name, metrics, answers in _OTHER_ANSWERS
        ),
    )
}


def find_task(config: PretrainedConfig) -> Task:
    """The task of the class that `config.architectures` names first; `problem_type` and `num_labels` tell classifiers.

    Raises:
        UnsupportedError: no class, or unknown task.
    """
    names = config.architectures or []
    if not names:
        raise UnsupportedError(
            f"the {config.model_type} config names no architecture: add `architectures` to config.json"
        )
    return _answered_task(_without_encoder(_task_of_class(names[0]), config), config)


def task_of_model(model: Any) -> Task:
    """The task of a model's class.

    Raises:
        UnsupportedError: no such head.
    """
    return _answered_task(_without_encoder(_task_of_class(type(model).__name__), model.config), model.config)


def _answered_task(task: Task, config: PretrainedConfig) -> Task:
    """A task by what the outputs mean; transformers takes a single output of a classifier for a value too."""
    if task.name == "features" and pooling_of(config) is not None:
        return TASKS["sentence-embedding"]
    if task.name not in ("image-classification", "text-classification"):
        return task
    kind = task.name.removesuffix("classification")
    problem = getattr(config, "problem_type", None)
    if problem == "multi_label_classification":
        return TASKS[f"{kind}multi-label"]
    return TASKS[f"{kind}regression"] if problem == "regression" or config.num_labels == 1 else task


def _without_encoder(task: Task, config: PretrainedConfig) -> Task:
    """The task of a generator: without an encoder (images or sounds among tokens) it continues its text."""
    return TASKS["causal-lm"] if task.name == "seq2seq-lm" and not config.is_encoder_decoder else task


def _task_of_class(name: str) -> Task:
    heads = {head: task for task in TASKS.values() for head in task.heads}
    task = next((task for head, task in heads.items() if name.endswith(head)), None)
    if task is None or not task.metrics or name.endswith("WithLMHeadModel"):
        # A name may end like a base class and be none (MarianMTModel), or be listed for another head (XLM).
        listed = _listed_task(name)
        task = listed or task
    if task is not None:
        return task
    raise UnsupportedError(f"{name} has a task that is not known here (known endings: {', '.join(heads)})")


def _listed_task(name: str) -> Task | None:
    """The task of a class by the Auto mappings of transformers."""
    return next((TASKS[task] for mapping, task in _MAPPINGS.items() if name in _listed_classes(mapping)), None)


#: {Auto mapping: task}; base classes come first, since some are listed with heads too.
_MAPPINGS = {
    "MODEL_MAPPING_NAMES": "features",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES": "seq2seq-lm",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "masked-lm",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "causal-lm",
}


@cache
def _listed_classes(mapping: str) -> frozenset[str]:
    """Names of the classes in an Auto mapping."""
    entries = getattr(modeling_auto, mapping, {}).values()
    return frozenset(name for entry in entries for name in ([entry] if isinstance(entry, str) else entry))


def predicts_vocabulary(config: PretrainedConfig) -> bool:
    """Whether each token has a logit for every vocabulary entry."""
    metrics = find_task(config).metrics if config.architectures else ()
    return "perplexity" in metrics and isinstance(getattr(config, "vocab_size", None), int)


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether a model has labelled outputs: classes, labels or values.

    Raises:
        UnsupportedError: as `find_task`.
    """
    return find_task(config).columns


def check_outputs(config: PretrainedConfig, name: str) -> None:
    """Refuse classifiers without a head.

    Raises:
        UnsupportedError: no labels.
    """
    if config.architectures and is_classifier(config) and not config.num_labels:
        raise UnsupportedError(
            f"{name} has a class for labels and none (num_labels 0): set architectures to the class of its base model"
        )


def check_measurable(config: PretrainedConfig, doing: str, name: str) -> Task:
    """The task of a model with a head; messages name `doing` ("evaluating").

    Raises:
        UnsupportedError: no head, or as `check_outputs`.
    """
    check_outputs(config, name)
    task = find_task(config)
    if not task.metrics:
        raise UnsupportedError(
            f"{doing} needs a head that answers, and {name} ({task.name}) has none: it can be fused only"
        )
    return task
