"""The tasks: data, teachers' configs and their training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedConfig, PreTrainedTokenizerFast, ViTConfig, ViTImageProcessorPil

from benchmarks.tasks.boards import SIDE, save_boards
from benchmarks.tasks.reviews import LABELS, save_reviews, words

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_SIZES = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}


@dataclass(frozen=True)
class TaskSetting:
    """One task.

    Attributes:
        save: writes the data, {split: samples}, into a folder that does not exist.
        config: of the teachers.
        processor: image processor or tokenizer.
        samples: by split.
        steps, learning_rate: of the teachers' training, in batches of 64.
    """

    save: Callable[[Path, dict[str, int]], None]
    config: Callable[[], PreTrainedConfig]
    processor: Callable[[], Any]
    samples: dict[str, int] = field(default_factory=lambda: {"train": 4000, "test": 1000})
    steps: int = 1200
    learning_rate: float = 1e-3


def class_names(names: tuple[str, ...]) -> dict[str, Any]:
    """Fields of a config."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate((*_SPECIAL, *words()))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _text_config(**fields: Any) -> BertConfig:
    return BertConfig(
        architectures=["BertForSequenceClassification"], vocab_size=len(_SPECIAL) + len(words()), pad_token_id=0,
        max_position_embeddings=48, **_SIZES, **_DROPOUT, **fields,
    )  # fmt: skip


def _image_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(
        do_resize=True, size={"height": SIDE, "width": SIDE}, do_convert_rgb=True, image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )  # fmt: skip


def _image_config(**fields: Any) -> ViTConfig:
    return ViTConfig(
        architectures=["ViTForImageClassification"], image_size=SIDE, patch_size=4, initializer_range=0.1, **_SIZES,
        **_DROPOUT, **fields,
    )  # fmt: skip


SETTINGS: dict[str, TaskSetting] = {
    "text-regression": TaskSetting(
        lambda folder, samples: save_reviews(folder, "rating", samples),
        lambda: _text_config(problem_type="regression", **class_names(("rating",))),
        _tokenizer,
    ),
    "text-multi-label": TaskSetting(
        lambda folder, samples: save_reviews(folder, "labels", samples),
        lambda: _text_config(problem_type="multi_label_classification", **class_names(LABELS)),
        _tokenizer,
    ),
    "image-regression": TaskSetting(
        lambda folder, samples: save_boards(folder, "values", samples),
        lambda: _image_config(problem_type="regression", **class_names(("sum", "number"))),
        _image_processor,
    ),
    "image-multi-label": TaskSetting(
        lambda folder, samples: save_boards(folder, "labels", samples),
        lambda: _image_config(problem_type="multi_label_classification", **class_names(tuple("0123456789"))),
        _image_processor,
    ),
}
