"""Teachers, data and scores of a setting: what every contender of a benchmark gets alike."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from compressor.bench.accuracy import Tally, new_tally, predict
from compressor.data.batches import Batches, Samples
from compressor.data.sources import open_split
from compressor.data.split import Split
from compressor.distillation.distill import FinetuneReport, train_student
from compressor.distillation.lr_search import validation_rows
from compressor.distillation.objective import FeatureTargets
from compressor.ensemble.answers import ensemble_predictions, mean_kl
from compressor.ensemble.probabilities import mix_predictions
from compressor.ensemble.stacking import Mixture
from compressor.models.builtin import BUILTIN
from compressor.models.load import load_teacher
from compressor.models.tasks.table import TASKS, task_of_model
from compressor.models.tasks.task import Task
from compressor.models.teacher import Teacher
from compressor.recipe import DataOptions, FinetuneOptions

EVALUATION_BATCH = 250
#: Training images that settings are chosen by; texts have a validation part of their own.
VALIDATION, VALIDATION_SEED = 2000, 77
PARTS = ("train", "validation", "test")
#: The task of what there is data of.
TASK_OF = {
    "cifar10": "image-classification",
    "sst2": "text-classification",
    "shakespeare": "causal-lm",
    "seq2seq": "seq2seq-lm",
    "domains": "causal-lm",
    "digits": "image-classification",
}
#: Memory that preprocessed training samples may take.
CACHE = 1 << 30

Named = tuple[str, PreTrainedModel]


@dataclass(frozen=True)
class Setting:
    """A group of teachers and what they learned from.

    Attributes:
        name: in tables.
        teachers: folder names of the teachers, for each seed in turn; the first is the anchor where none is given.
        data: one of `TASK_OF`.
        anchors: folder names of a given anchor, for each seed in turn.
        samples: for calibration.
        batch: samples per step of a finetune.
        test: first so many test samples; None for all.
        classes: those that each teacher knows, where teachers know some.
        domains: names of the texts of "domains", one a teacher.
        ancestor: folder name of the model that all teachers are fine-tuned from, if they are.
    """

    name: str
    teachers: tuple[tuple[str, ...], ...]
    data: str
    anchors: tuple[str, ...] = ()
    samples: int = 1024
    batch: int = 128
    test: int | None = None
    classes: tuple[tuple[int, ...], ...] = ()
    domains: tuple[str, ...] = ()
    ancestor: str | None = None

    @property
    def task(self) -> Task:
        """What the teachers do."""
        return TASKS[TASK_OF[self.data]]

    @property
    def metric(self) -> str:
        """Of the scores: "accuracy" in percent or "perplexity"."""
        return self.task.metrics[0]

    def better(self, score: float, than: float) -> bool:
        """Whether one score beats another."""
        return score < than if self.metric == "perplexity" else score > than


@dataclass(frozen=True)
class Places:
    """Where things are.

    Attributes:
        teachers: folders that hold teachers' folders, by whose names they are found.
        data: folder with what the settings need: cifar10/{train,test}.parquet, sst2/{train,dev,test}.tsv,
            tinyshakespeare.txt and, from benchmarks/text/pairs.py, seq2seq/{train,validation,test}.jsonl; texts of
            domains as domains/<name>-{train,validation,test}.txt.
        scratch: for files that are made on the way.
    """

    teachers: tuple[Path, ...]
    data: Path
    scratch: Path

    def has_teacher(self, name: str) -> bool:
        """Whether a teacher is built in or its folder is there."""
        return name in BUILTIN or any((folder / name / "config.json").exists() for folder in self.teachers)

    def teacher(self, name: str) -> Path:
        """The folder of a teacher; FileNotFoundError names where it was looked for."""
        for folder in self.teachers:
            if (folder / name / "config.json").exists():
                return folder / name
        raise FileNotFoundError(f"no teacher {name} in {', '.join(map(str, self.teachers))}")


class Arena:
    """One setting's teachers, calibration samples, scores and finetunes; everything read is kept.

    Args:
        setting: which.
        places: where its teachers and data are.
    """

    def __init__(self, setting: Setting, places: Places) -> None:
        self.setting, self.places = setting, places
        self._models: dict[str, Teacher] = {}
        self._parts: dict[str, Batches] = {}
        self._ensemble: dict[int, list[Tensor]] = {}
        self._kept_out: float | None = None

    def of_samples(self, samples: int) -> Arena:
        """The same, what was read included, with another number of calibration samples."""
        other = copy.copy(self)
        other.setting = replace(self.setting, samples=samples)
        return other

    def without_validation(self, share: float) -> Arena:
        """The same, whose `calibration` lacks what a finetune of its seed on these samples keeps out to choose by."""
        other = copy.copy(self)
        other._kept_out = share
        return other

    def model(self, name: str) -> Named:
        """A teacher by the name of its folder."""
        return name, self._load(name).model

    def teachers(self, seed: int) -> list[Named]:
        """The teachers of a seed."""
        groups = self.setting.teachers
        return [self.model(name) for name in groups[seed % len(groups)]]

    def fingerprint(self, seed: int) -> str:
        """What tells the teachers of a seed from others that the same recipes gave elsewhere, 12 hex digits."""
        groups = self.setting.teachers
        prints = [self._load(name).fingerprint for name in groups[seed % len(groups)]]
        return hashlib.sha256(" ".join(prints).encode()).hexdigest()[:12]

    def anchor(self, seed: int) -> Named:
        """The given anchor of a seed."""
        return self.model(self.setting.anchors[seed % len(self.setting.anchors)])

    def calibration(self, seed: int, samples: int | None = None) -> list[dict[str, Any]]:
        """Unlabelled samples of the training part, drawn with the seed."""
        drawn = self._drawn(seed, samples or self.setting.samples, labels=False)
        if self._kept_out is not None:
            drawn = drawn.select(np.array(validation_rows(len(drawn), self._kept_out, seed)[0]))
        return list(Batches(drawn, self._first.processor, 128, labels=False, spec=self._first.spec))

    def labelled(self, seed: int, samples: int | None = None) -> list[dict[str, Any]]:
        """The samples of `calibration` with their labels, for contenders that need them."""
        drawn = self._drawn(seed, samples or self.setting.samples, labels=True)
        return list(Batches(drawn, self._first.processor, 128, labels=True, spec=self._first.spec))

    def divergence(self, model: PreTrainedModel, seed: int, batches: int = 8) -> float:
        """KL(ensemble of a seed's teachers || model) in nats, on the first batches of the test part."""
        found = list(itertools.islice(self._part("test"), batches))
        if seed not in self._ensemble:
            teachers = [teacher for _, teacher in self.teachers(seed)]
            share = [1 / len(teachers)] * len(teachers)
            self._ensemble[seed] = [ensemble_predictions(teachers, share, batch) for batch in found]
        return mean_kl(model, found, self._ensemble[seed])

    def judge(self, model: PreTrainedModel, part: str = "test") -> dict[str, float]:
        """The score on a part, and the "loss": mean −log p of its labels in nats, which fewer samples tell apart."""
        tally, task = new_tally(model), task_of_model(model)
        surprise, count = 0.0, 0
        for found in predict([model], self._part(part)):
            assert found.labels is not None
            tally.add(found.log_probs[0], found.inputs, found.labels)
            answers, labels = task.answered(found.log_probs[0], found.labels.cpu())
            surprise -= answers.gather(-1, labels[:, None]).double().sum().item()
            count += len(labels)
        return {"score": self.figure(tally), "loss": round(surprise / count, 6)}

    def score(self, model: PreTrainedModel, part: str = "test") -> float:
        """Accuracy in percent or perplexity on the part "test" or "validation"."""
        return self.scores([model], part)[0]

    def scores(self, models: Sequence[PreTrainedModel], part: str = "test") -> list[float]:
        """The score of every model and, last, of all of them as an ensemble."""
        tallies = [new_tally(models[0]) for _ in range(len(models) + 1)]
        for found in predict(models, self._part(part)):
            rows = [*found.log_probs, mix_predictions(found.log_probs, [1.0] * len(models))]
            for tally, row in zip(tallies, rows, strict=True):
                tally.add(row, found.inputs, found.labels)
        return [self.figure(tally) for tally in tallies]

    def finetune(
        self,
        model: PreTrainedModel,
        teachers: Sequence[Named],
        options: FinetuneOptions,
        seed: int,
        mixture: Mixture | None = None,
        *,
        targets: FeatureTargets | None = None,
        only_calibration: bool = False,
    ) -> FinetuneReport:
        """Train a model in place; teachers are not run where the options want labels alone.

        Args:
            mixture: of the teachers' predictions; None for the mean of their probabilities.
            targets: of losses on streams.
            only_calibration: learn from the samples of `calibration` instead of all.
        """
        models = [teacher for _, teacher in teachers]
        weights, mixing = (mixture.weights, mixture.mixing) if mixture else ([1.0] * len(models), 1.0)
        samples = self._labelled if options.label_weight else self._unlabelled
        if only_calibration:
            labels = options.label_weight > 0
            drawn = self._drawn(seed, self.setting.samples, labels=labels)
            samples = Samples(drawn, self._first.processor, self._first.spec, labels=labels, cache_bytes=CACHE)
        with tempfile.TemporaryDirectory(dir=self.places.scratch) as folder:
            work = Path(folder) / "run"
            return train_student(
                model, models, weights, samples, options, seed=seed, work_dir=work, targets=targets, mixing=mixing
            )

    def test_batches(self) -> dict[str, Batches]:
        """The test part by domain, or whole under the empty name."""
        return {name: self._part(f"test-{name}" if name else "test") for name in self.setting.domains or ("",)}

    def anchor_steps(self, seed: int) -> int | None:
        """The steps on labels that the given anchor of a seed was trained for, where its folder says so."""
        record = self.places.teacher(self.setting.anchors[seed % len(self.setting.anchors)]) / "training.json"
        return json.loads(record.read_text("utf-8"))["steps"] if record.exists() else None

    def figure(self, tally: Tally) -> float:
        """The setting's metric of what was tallied."""
        score = tally.score()
        return float(score.perplexity or 0) if self.setting.metric == "perplexity" else 100 * float(score.accuracy or 0)

    def _load(self, name: str) -> Teacher:
        if name not in self._models:
            self._models[name] = load_teacher(name if name in BUILTIN else str(self.places.teacher(name)))
        return self._models[name]

    @property
    def _first(self) -> Teacher:
        return self._load(self.setting.teachers[0][0])

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Per part a source that holds it as its evaluation split, and the training part beside it."""
        kind, data = self.setting.data, self.places.data
        if kind == "cifar10":
            return {"test": data / "cifar10"}
        if kind == "digits":
            return {"test": Path(kind)}
        if kind == "sst2":
            names = dict(zip(PARTS, ("train", "dev", "test"), strict=True))
            contents = {part: (data / "sst2" / f"{name}.tsv").read_text("utf-8") for part, name in names.items()}
            return self._written(contents, "tsv")
        if kind == "seq2seq":
            parts = {part: (data / "seq2seq" / f"{part}.jsonl").read_text("utf-8") for part in PARTS}
            return self._written(parts, "jsonl")
        if kind == "domains":
            return self._written(self._domain_texts(), "txt")
        text = (data / "tinyshakespeare.txt").read_text("utf-8")
        first, second = round(len(text) * 0.9), round(len(text) * 0.95)
        return self._written({"train": text[:first], "validation": text[first:second], "test": text[second:]}, "txt")

    def _domain_texts(self) -> dict[str, str]:
        """Parts of all domains, as much of each, and the test part of each."""
        texts: dict[str, str] = {}
        for part in PARTS:
            files = [self.places.data / "domains" / f"{name}-{part}.txt" for name in self.setting.domains]
            found = [file.read_text("utf-8") for file in files]
            least = min(map(len, found))
            texts[part] = "".join(text[:least] for text in found)
            if part == "test":
                texts |= {f"test-{name}": text[:least] for name, text in zip(self.setting.domains, found, strict=True)}
        return texts

    def _written(self, contents: dict[str, str], ending: str) -> dict[str, Path]:
        found = {}
        for part in contents.keys() - {"train"}:
            found[part] = self.places.scratch / self.setting.data / part
            found[part].mkdir(parents=True, exist_ok=True)
            (found[part] / f"train.{ending}").write_text(contents["train"], encoding="utf-8")
            (found[part] / f"test.{ending}").write_text(contents[part], encoding="utf-8")
        return found

    def _open(self, part: str, split: Literal["train", "eval"]) -> Split:
        source = DataOptions(source=str(self._files[part]))
        return open_split(source, split, task=self._first.spec.task)

    @cached_property
    def _train(self) -> Split:
        return self._open("test", "train")

    def _drawn(self, seed: int, samples: int, *, labels: bool) -> Split:
        whole = Batches(self._train, self._first.processor, 1, labels=labels, spec=self._first.spec)
        return whole.split.take(samples, seed=seed)

    @cached_property
    def _labelled(self) -> Samples:
        return Samples(self._train, self._first.processor, self._first.spec, labels=True, cache_bytes=CACHE)

    @cached_property
    def _unlabelled(self) -> Samples:
        return Samples(self._train, self._first.processor, self._first.spec, labels=False, cache_bytes=CACHE)

    def _part(self, part: str) -> Batches:
        if part not in self._parts:
            if part in self._files:
                split = self._open(part, "eval")
                if part == "test" and self.setting.test:
                    split = split.take(self.setting.test)
            else:
                split = self._train.take(VALIDATION, seed=VALIDATION_SEED)
            size = EVALUATION_BATCH if self.setting.data == "cifar10" else 64
            self._parts[part] = Batches(split, self._first.processor, size, labels=True, spec=self._first.spec)
        return self._parts[part]
