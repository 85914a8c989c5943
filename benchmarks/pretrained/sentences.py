"""Sentences of SST-2 without labels, and how near a student's similarities are to the model's."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import typer
from torch import Tensor
from torch.nn import functional

from benchmarks.pretrained.settings import PACKAGE, SCORED, VALIDATION
from compressor.anatomy.hooks import logits_of
from compressor.bench.answer_tallies import TallySetting
from compressor.bench.embedding_scores import EmbeddingTally
from compressor.models.load import load_teacher
from compressor.models.teacher import Teacher

#: Sentences of one forward pass.
BATCH = 64


def model_folder() -> Path:
    """The folder of the sentence model in its package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise typer.BadParameter(f"no package {PACKAGE}: pip install 'compressor[pretrained]', or name a --model")
    return Path(spec.origin).parent / "model"


class Sentences:
    """Training sentences, and those that students are scored on.

    Args:
        data: folder with {train,dev}.tsv, a sentence and its label a row.
        model: folder of the sentence model.
    """

    def __init__(self, data: Path, model: Path) -> None:
        self.teacher: Teacher = load_teacher(str(model))
        self.training = _texts(data / "train.tsv")[:-VALIDATION]
        self.scored = _texts(data / "dev.tsv")[:SCORED]
        self._reference = self._embed(self.teacher.model)

    def drawn(self, seed: int) -> list[str]:
        """The training sentences in the order of a seed."""
        texts = list(self.training)
        random.Random(seed).shuffle(texts)
        return texts

    def scores(self, student: Any) -> dict[str, float]:
        """`similarity`, Spearman's correlation of all pairs' cosines with the model's, and `neighbours`, the share of
        the ten nearest in common, with their standard errors over sentences."""
        tally = EmbeddingTally(TallySetting(self.teacher.spec.task))
        tally.compare(self._embed(student), self._reference)
        return {name: round(float(value), 4) for name, value in tally.metrics().items() if value is not None}

    @torch.no_grad()
    def _embed(self, model: Any) -> Tensor:
        """Unit embeddings [N, d] of the scored sentences."""
        rows, tokenizer = [], cast(Any, self.teacher.processor)
        for start in range(0, len(self.scored), BATCH):
            texts: Sequence[str] = self.scored[start : start + BATCH]
            inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            rows.append(functional.normalize(logits_of(model, dict(inputs)).double(), dim=-1))
        return torch.cat(rows)


def _texts(file: Path) -> list[str]:
    return [line.split("\t")[0] for line in file.read_text(encoding="utf-8").splitlines()]
