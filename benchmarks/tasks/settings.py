"""The tasks: data, teachers' configs and their training."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    BertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    SeamlessM4TFeatureExtractor,
    ViTConfig,
    ViTImageProcessorPil,
    Wav2Vec2BertConfig,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

from benchmarks.tasks.boards import SIDE, save_boards
from benchmarks.tasks.questions import choice, question, save_rows, words_of_questions
from benchmarks.tasks.reviews import LABELS, save_reviews, words
from benchmarks.tasks.tones import LETTERS, MELODIES, save_letters, save_melodies

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
#: Of teachers that learn quickly or whose steps are dear.
_SHALLOW: dict[str, Any] = {"num_hidden_layers": 2}
#: Standard deviation of weights to begin with: narrow models learn little for long from transformers' 0.02.
LARGE = 0.1
_SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}


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


def _vocabulary() -> tuple[str, ...]:
    return (*_SPECIAL, *sorted({*words(), *words_of_questions()}))


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(_vocabulary())}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=frame
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _text_config(head: str = "SequenceClassification", **fields: Any) -> BertConfig:
    return BertConfig(
        architectures=[f"BertFor{head}"], vocab_size=len(_vocabulary()), pad_token_id=0,
        max_position_embeddings=64, **{**_SIZES, **_DROPOUT, **fields},
    )  # fmt: skip


def _image_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(
        do_resize=True, size={"height": SIDE, "width": SIDE}, do_convert_rgb=True, image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )  # fmt: skip


def _image_config(**fields: Any) -> ViTConfig:
    return ViTConfig(
        architectures=["ViTForImageClassification"], image_size=SIDE, patch_size=4, initializer_range=LARGE, **_SIZES,
        **_DROPOUT, **fields,
    )  # fmt: skip


#: Bins of a spectrogram, and frames of a melody.
_BINS, _FRAMES = 32, 48
_SYMBOLS = ("<pad>", "<unk>", "|", *LETTERS)


def _melody_config() -> ASTConfig:
    return ASTConfig(
        architectures=["ASTForAudioClassification"], num_mel_bins=_BINS, max_length=_FRAMES, patch_size=8,
        frequency_stride=8, time_stride=8, initializer_range=LARGE, **{**_SIZES, **_SHALLOW}, **_DROPOUT,
        **class_names(tuple(MELODIES)),
    )  # fmt: skip


def _letter_config() -> Wav2Vec2BertConfig:
    none: dict[str, Any] = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "feat_proj_dropout", "activation_dropout", "layerdrop",
         "final_dropout", "conformer_conv_dropout"), 0.0
    )  # fmt: skip
    return Wav2Vec2BertConfig(
        architectures=["Wav2Vec2BertForCTC"], vocab_size=len(_SYMBOLS), pad_token_id=0, bos_token_id=None,
        eos_token_id=None, feature_projection_input_dim=2 * _BINS, output_hidden_size=_SIZES["hidden_size"],
        conv_depthwise_kernel_size=7, apply_spec_augment=False, **{**_SIZES, **_SHALLOW}, **none,
    )  # fmt: skip


def _letter_processor() -> Wav2Vec2BertProcessor:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder, "vocab.json")
        vocabulary.write_text(json.dumps({symbol: index for index, symbol in enumerate(_SYMBOLS)}), encoding="utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(
            str(vocabulary), pad_token="<pad>", unk_token="<unk>", bos_token=None, eos_token=None
        )
    return Wav2Vec2BertProcessor(SeamlessM4TFeatureExtractor(feature_size=_BINS, num_mel_bins=_BINS), tokenizer)


#: Seconds of the longest text of letters, and frames of a spectrogram in a second.
_LONGEST, _RATE = 2, 100
_SPOKEN = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", "Ġ", *LETTERS)


def _spoken_config() -> WhisperConfig:
    sizes: dict[str, Any] = {f"{part}_{name}": value for part in ("encoder", "decoder")
             for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 128))}  # fmt: skip
    return WhisperConfig(
        architectures=["WhisperForConditionalGeneration"], vocab_size=len(_SPOKEN), num_mel_bins=_BINS, d_model=64,
        max_source_positions=_LONGEST * _RATE // 2, max_target_positions=32, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=1, dropout=0.0, suppress_tokens=None, begin_suppress_tokens=None,
        init_std=LARGE, **sizes,
    )  # fmt: skip


def _spoken_processor() -> WhisperProcessor:
    vocabulary = {token: index for index, token in enumerate(_SPOKEN)}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], additional_special_tokens=list(_SPOKEN[1:3]))
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=_BINS, chunk_length=_LONGEST), tokenizer)


#: Features of sounds take long to make.
_OF_SOUNDS: dict[str, Any] = {"samples": {"train": 1200, "test": 400}, "steps": 300, "learning_rate": 2e-3}

#: About a minute of one core a teacher.
_QUICK: dict[str, Any] = {"samples": {"train": 3000, "test": 800}, "steps": 800, "learning_rate": 1e-3}

SETTINGS: dict[str, TaskSetting] = {
    "text-regression": TaskSetting(
        lambda folder, samples: save_reviews(folder, "rating", samples),
        lambda: _text_config(problem_type="regression", **class_names(("rating",)), **_SHALLOW),
        _tokenizer,
        **_QUICK,
    ),
    "text-multi-label": TaskSetting(
        lambda folder, samples: save_reviews(folder, "labels", samples),
        lambda: _text_config(
            problem_type="multi_label_classification", initializer_range=LARGE, **class_names(LABELS), **_SHALLOW
        ),
        _tokenizer,
        **{**_QUICK, "learning_rate": 2e-3},
    ),
    "question-answering": TaskSetting(
        lambda folder, samples: save_rows(folder, question, samples),
        lambda: _text_config("QuestionAnswering", **_SHALLOW),
        _tokenizer,
        steps=250,
        learning_rate=2e-3,
    ),
    "multiple-choice": TaskSetting(
        lambda folder, samples: save_rows(folder, choice, samples),
        lambda: _text_config("MultipleChoice", **_SHALLOW),
        _tokenizer,
        steps=300,
        learning_rate=2e-3,
    ),
    "image-regression": TaskSetting(
        lambda folder, samples: save_boards(folder, "values", samples),
        lambda: _image_config(problem_type="regression", **class_names(("sum", "number"))),
        _image_processor,
        **_QUICK,
    ),
    "image-multi-label": TaskSetting(
        lambda folder, samples: save_boards(folder, "labels", samples),
        lambda: _image_config(problem_type="multi_label_classification", **class_names(tuple("0123456789"))),
        _image_processor,
        **_QUICK,
    ),
    "audio-classification": TaskSetting(
        save_melodies,
        _melody_config,
        lambda: ASTFeatureExtractor(num_mel_bins=_BINS, max_length=_FRAMES),
        **_OF_SOUNDS,
    ),
    "speech-to-text": TaskSetting(save_letters, _spoken_config, _spoken_processor, **{**_OF_SOUNDS, "steps": 400}),
    "ctc": TaskSetting(save_letters, _letter_config, _letter_processor, **{**_OF_SOUNDS, "learning_rate": 3e-3}),
}
