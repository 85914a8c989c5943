"""The table of tasks.

A new task needs an entry of `TASKS`, and its data's columns and reader in `compressor.data.task_data.TASK_DATA`.  An
answer of another form needs `Task.read`, or an entry of `compressor.ensemble.answers.ANSWERS`; another score one of
`compressor.bench.tallies.TALLIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import transformers
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto

from compressor.errors import UnsupportedError
from compressor.models.headless.sentence_pooling import EMBEDDING, pooling_of
from compressor.models.modalities import reads_sound, reads_waves
from compressor.models.tasks.boxes import chooses_no_object, places_for_objects
from compressor.models.tasks.masks import pixel_logits
from compressor.models.tasks.outputs import pair_embeddings, span_ends
from compressor.models.tasks.task import Task

#: (ending of a name, metrics, answers) of tasks of images and of texts alike.
_OTHER_ANSWERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("multi-label", ("f1",), "labels"),
    ("regression", ("spearman", "rmse"), "values"),
)
_OF_IMAGES, _OF_TEXTS = "AutoModelForImageClassification", "AutoModelForSequenceClassification"
#: The first task with a matching head counts, so the headless "Model" comes last.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("image-classification", ("ForImageClassification",), ("accuracy",), columns=True, auto=_OF_IMAGES),
        Task("text-classification", ("ForSequenceClassification",), ("accuracy", "f1"), columns=True, auto=_OF_TEXTS),
        Task(
            "semantic-segmentation", ("ForSemanticSegmentation",), ("miou", "accuracy"), read=pixel_logits, dims=4,
            columns=True, auto="AutoModelForSemanticSegmentation", tag="image-segmentation",
        ),
        Task(
            "object-detection", ("ForObjectDetection",), ("map", "map50"), answers="boxes",
            outputs=("logits", "pred_boxes"), read=places_for_objects, dims=3, columns=True,
            auto="AutoModelForObjectDetection",
        ),
        Task(
            "token-classification", ("ForTokenClassification",), ("accuracy", "f1"), mask="attention_mask",
            columns=True, auto="AutoModelForTokenClassification",
        ),
        Task(
            "question-answering", ("ForQuestionAnswering", "ForQuestionAnsweringSimple"), ("exact_match", "f1"),
            outputs=("start_logits", "end_logits"), read=span_ends, dims=3, by_token=True, columns=True, named=False,
            auto="AutoModelForQuestionAnswering",
        ),
        Task(
            "multiple-choice", ("ForMultipleChoice",), ("accuracy",), choices=True, columns=True, named=False,
            auto="AutoModelForMultipleChoice",
        ),
        Task(
            "audio-classification", ("ForAudioClassification",), ("accuracy",), columns=True,
            auto="AutoModelForAudioClassification",
        ),
        Task(
            "ctc", ("ForCTC",), ("wer", "cer"), answers="frames", mask="attention_mask", columns=True, named=False,
            auto="AutoModelForCTC", tag="automatic-speech-recognition",
        ),
        Task(
            "masked-lm", ("ForMaskedLM",), ("perplexity",), mask="attention_mask", packed=True, ends=True,
            auto="AutoModelForMaskedLM", tag="fill-mask",
        ),
        Task(
            "causal-lm", ("ForCausalLM", "LMHeadModel"), ("perplexity",), mask="attention_mask", shift=True,
            packed=True, auto="AutoModelForCausalLM", tag="text-generation",
        ),
        Task(
            "seq2seq-lm", ("ForConditionalGeneration",), ("perplexity",), mask="decoder_attention_mask",
            auto="AutoModelForSeq2SeqLM", tag="text2text-generation",
        ),
        Task(
            "image-text", (), ("recall5", "recall1_images", "accuracy"), answers="pairs",
            outputs=("image_embeds", "text_embeds", "logits_per_image"), read=pair_embeddings, dims=3, named=False,
            tag="zero-shot-image-classification",
        ),
        Task("features", ("Model",), (), tag="feature-extraction"),
        # Heads of other tasks (depth, masked images): fused and exported by what they answer, and not scored.
        Task("unscored", (), (), answers="values", named=False, tag="other"),
        # A headless model whose folder says how its tokens are pooled.
        Task(
            "sentence-embedding", (), ("similarity", "neighbours", "spearman"), answers="embeddings",
            outputs=(EMBEDDING,), named=False, tag="sentence-similarity",
        ),
        *(
            Task(
                f"{kind}-{name}", (), metrics, answers=answers, columns=True, auto=auto, tag=f"{kind}-classification"
            )
            for kind, auto in (("image", _OF_IMAGES), ("text", _OF_TEXTS))
            for name, metrics, answers in _OTHER_ANSWERS
        ),
    )
}  # fmt: skip


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


def task_logits(task: Task, output: Any, inputs: Mapping[str, Tensor], name: str = "a model") -> Tensor:
    """The logits [B, ..., C] of a forward pass of the model `name`.

    Raises:
        UnsupportedError: it lacks some of the task's outputs, or they have other dimensions.
    """
    logits = task.logits(output, inputs)
    if logits is not None and logits.dim() == task.logit_dims:
        return logits
    wanted = " and ".join(task.outputs)
    actual = f"no {wanted}" if logits is None else f"{wanted} {tuple(logits.shape)}"
    raise UnsupportedError(f"{name} cannot be measured as {task.name}: it gives {actual}")


def _answered_task(task: Task, config: PretrainedConfig) -> Task:
    """A task by what the outputs of a config's model mean; transformers takes a single output for a value too."""
    if task.name == "features" and pooling_of(config) is not None:
        return TASKS["sentence-embedding"]
    if task.name == "ctc":
        # Feature extractors without convolutions give masks of frames.
        steps = zip(config.conv_kernel, config.conv_stride, strict=True) if reads_waves(config) else ()
        return replace(task, strides=tuple(steps), blank=getattr(config, "pad_token_id", None) or 0)
    if task.name == "object-detection" and not chooses_no_object(config):
        # Sigmoids, or classes that a text names: another answer.
        return TASKS["unscored"]
    if task.name == "seq2seq-lm" and reads_sound(config):
        return replace(task, metrics=("perplexity", "wer", "cer"))
    if task.name == "text-classification" and reads_sound(config):
        return TASKS["audio-classification"]
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
    if isinstance(getattr(transformers, name, None), type):
        return TASKS["unscored"]
    raise UnsupportedError(f"{name} has a task that is not known here (known endings: {', '.join(heads)})")


def _listed_task(name: str) -> Task | None:
    """The task of a class by the Auto mappings of transformers."""
    return next((TASKS[task] for mapping, task in _MAPPINGS.items() if name in _listed_classes(mapping)), None)


#: {Auto mapping: task}; base classes come first, since some are listed with heads too.
_MAPPINGS = {
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES": "image-text",
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
    task = find_task(config)
    return task.columns and task.named


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
    if task.name == "unscored":
        raise UnsupportedError(
            f"{doing} needs a score, and none is known for what {(config.architectures or [''])[0]} ({name}) answers: "
            "it can be fused and exported only"
        )
    if not task.metrics:
        raise UnsupportedError(
            f"{doing} needs a head that answers, and {name} ({task.name}) has none: it can be fused only"
        )
    return task
