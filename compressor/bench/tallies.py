"""The tally of each task, by its main metric."""

from __future__ import annotations

from collections.abc import Callable

from compressor.bench.answer_tallies import AnswerTally, ClassTally, LabelTally, TallySetting, TokenTally, ValueTally
from compressor.bench.box_tally import BoxTally
from compressor.bench.embedding_scores import EmbeddingTally
from compressor.bench.mask_tally import MaskTally
from compressor.bench.pair_tally import PairTally
from compressor.bench.span_scores import SpanTally
from compressor.bench.spoken_tally import SpokenTally
from compressor.bench.transcript_scores import TranscriptTally

#: Main metric of a task -> its tally.
TALLIES: dict[str, Callable[[TallySetting], AnswerTally]] = {
    "accuracy": ClassTally,
    "miou": MaskTally,
    "map": BoxTally,
    "recall5": PairTally,
    "perplexity": lambda setting: (SpokenTally if "wer" in setting.task.metrics else TokenTally)(setting),
    "f1": LabelTally,
    "spearman": ValueTally,
    "exact_match": SpanTally,
    "similarity": EmbeddingTally,
    "wer": TranscriptTally,
}
