"""The tally of each task, by its main metric."""

from __future__ import annotations

from collections.abc import Callable

from compressor.bench.answer_tallies import AnswerTally, ClassTally, LabelTally, TallySetting, TokenTally, ValueTally
from compressor.bench.embedding_scores import EmbeddingTally
from compressor.bench.span_scores import SpanTally

#: Main metric of a task -> its tally.
TALLIES: dict[str, Callable[[TallySetting], AnswerTally]] = {
    "accuracy": ClassTally,
    "perplexity": TokenTally,
    "f1": LabelTally,
    "spearman": ValueTally,
    "exact_match": SpanTally,
    "similarity": EmbeddingTally,
}
