"""Half-width students of the text teachers: ours, evenly spaced slices and random weights, with equal finetuning.

    python benchmarks/text/students.py --teachers out --data sst2 --text tinyshakespeare.txt -o results

Every contender gets the same calibration samples, the same distillation batches and the same search of its learning
rate on validation data.  Scores are of the test part, which chooses nothing.  Finished runs are kept in the output
folder and not made again.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from compressor.bench.accuracy import new_tally, predict
from compressor.data.batches import Batches, Samples
from compressor.data.sources import open_split
from compressor.distillation.distill import train_student
from compressor.ensemble.probabilities import mix_predictions
from compressor.fusion import FusionResult, fuse_models
from compressor.models.configs.reading import model_class
from compressor.models.load import load_teacher
from compressor.models.teacher import Teacher
from compressor.pipeline.environment import environment
from compressor.recipe import DataOptions, FinetuneOptions, FusionOptions

#: Learning rates that every contender is searched over, on validation data, with the first seed.
RATES = (3e-4, 1e-3, 3e-3)
WIDTH = 0.5


@dataclass(frozen=True)
class Pair:
    """Two teachers and what they learned from."""

    teachers: tuple[str, str]
    text: str
    metric: str
    samples: int
    batch: int


PAIRS = {
    "bert": Pair(("bert-a", "bert-b"), "sst2", "accuracy", 1024, 32),
    "bert-depths": Pair(("bert-a", "bert-deep"), "sst2", "accuracy", 1024, 32),
    "llama": Pair(("llama-a", "llama-b"), "shakespeare", "perplexity", 256, 8),
    "gpt2": Pair(("gpt2-a", "gpt2-b"), "shakespeare", "perplexity", 256, 8),
}

#: Makes a student of teachers and calibration batches, with a seed.
Maker = Callable[[Sequence[Teacher], Sequence[dict], int], FusionResult]


def named(teachers: Sequence[Teacher]) -> list[tuple[str, Any]]:
    """Teachers by the names of their folders."""
    return [(Path(teacher.name).name, teacher.model) for teacher in teachers]


def ours(teachers: Sequence[Teacher], calibration: Sequence[dict], seed: int) -> FusionResult:
    # All contenders are measured against the mean of probabilities.
    options = FusionOptions(weights="equal", mixture="probabilities")
    return fuse_models(named(teachers), WIDTH, calibration, options, seed=seed)


def sliced(teachers: Sequence[Teacher], calibration: Sequence[dict], seed: int) -> FusionResult:
    options = FusionOptions(residual="slice", inner="slice", refit=False)
    return fuse_models(named(teachers), WIDTH, calibration, options, seed=seed)


def random(teachers: Sequence[Teacher], calibration: Sequence[dict], seed: int) -> FusionResult:
    found = sliced(teachers, calibration, seed)
    torch.manual_seed(seed)
    blank: Any = model_class(found.target.config)(copy.deepcopy(found.target.config))
    found.model.load_state_dict(blank.state_dict())
    return found


CONTENDERS: dict[str, Maker] = {"ours": ours, "slices": sliced, "random": random}


class Contest:
    """One pair of teachers, its data, and the scores of students.

    Args:
        pair: the teachers.
        folders: where they are.
        data: folders with a train and a test part, of validation and of test.
        steps: of the finetune.
        work: for checkpoints.
    """

    def __init__(self, pair: Pair, folders: Path, data: dict[str, Path], steps: int, work: Path) -> None:
        self.pair, self.steps, self.work = pair, steps, work
        self.teachers = [load_teacher(str(folders / name)) for name in pair.teachers]
        first = self.teachers[0]
        train = open_split(DataOptions(source=str(data["validation"])), "train", task=first.spec.task)
        self.train = Samples(train, first.processor, first.spec, labels=False, cache_bytes=1 << 28)
        self.split = train
        self.parts = {name: self._evaluation(folder) for name, folder in data.items()}

    def _evaluation(self, folder: Path) -> Batches:
        first = self.teachers[0]
        split = open_split(DataOptions(source=str(folder)), "eval", task=first.spec.task)
        return Batches(split, first.processor, 64, labels=True, spec=first.spec)

    def calibration(self, seed: int) -> list[dict]:
        """Samples of the training part, drawn with the seed."""
        first = self.teachers[0]
        whole = Batches(self.split, first.processor, 1, labels=False, spec=first.spec)
        drawn = whole.split.take(self.pair.samples, seed=seed)
        return list(Batches(drawn, first.processor, 64, labels=False, spec=first.spec))

    def scores(self, models: Sequence[Any], part: str) -> list[float]:
        """Accuracy in percent or perplexity of every model and, last, of all of them as an ensemble."""
        tallies = [new_tally(models[0]) for _ in range(len(models) + 1)]
        for found in predict(models, self.parts[part]):
            rows = [*found.log_probs, mix_predictions(found.log_probs, [1.0] * len(models))]
            for tally, row in zip(tallies, rows, strict=True):
                tally.add(row, found.inputs, found.labels)
        found_scores = [tally.score() for tally in tallies]
        if self.pair.metric == "perplexity":
            return [float(score.perplexity or 0) for score in found_scores]
        return [100 * float(score.accuracy or 0) for score in found_scores]

    def finetuned(self, model: Any, rate: float, seed: int) -> Any:
        """A copy of a student after distillation from the ensemble."""
        student = copy.deepcopy(model).train()
        options = FinetuneOptions(steps=self.steps, batch_size=self.pair.batch, learning_rate=rate)
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            models = [teacher.model for teacher in self.teachers]
            train_student(student, models, [1.0] * len(models), self.train, options, seed=seed, work_dir=Path(folder))
        return student.eval()

    def run(self, maker: Maker, seeds: int) -> dict[str, Any]:
        """One contender: its learning rate by validation, then test scores of every seed."""
        start = time.perf_counter()
        first = maker(self.teachers, self.calibration(0), 0)
        seconds = time.perf_counter() - start
        tried = {rate: self.finetuned(first.model, rate, 0) for rate in RATES}
        searched = {rate: self.scores([model], "validation")[0] for rate, model in tried.items()}
        best = (min if self.pair.metric == "perplexity" else max)(searched, key=lambda rate: searched[rate])
        one_shot, tuned = self.scores([first.model], "test")[:1], self.scores([tried[best]], "test")[:1]
        for seed in range(1, seeds):
            made = maker(self.teachers, self.calibration(seed), seed)
            one_shot.append(self.scores([made.model], "test")[0])
            tuned.append(self.scores([self.finetuned(made.model, best, seed)], "test")[0])
        return {
            "one_shot": one_shot, "finetuned": tuned, "rate": best, "searched": searched, "seconds": seconds,
            "parameters": sum(p.numel() for p in first.model.parameters()), "choice": first.report["choice"],
            "layers": first.report["layers"],
        }  # fmt: skip


def parts(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, Path]]:
    """Per text, folders with the training part and either the validation or the test part."""
    text = arguments.text.read_text(encoding="utf-8")
    first, second = round(len(text) * 0.9), round(len(text) * 0.95)
    sentences = {
        name: (arguments.data / f"{name}.tsv").read_text(encoding="utf-8") for name in ("train", "dev", "test")
    }
    contents = {
        "sst2": (sentences["train"], {"validation": sentences["dev"], "test": sentences["test"]}, "tsv"),
        "shakespeare": (text[:first], {"validation": text[first:second], "test": text[second:]}, "txt"),
    }
    found: dict[str, dict[str, Path]] = {}
    for name, (train, others, ending) in contents.items():
        for part, content in others.items():
            own = folder / name / part
            own.mkdir(parents=True, exist_ok=True)
            (own / f"train.{ending}").write_text(train, encoding="utf-8")
            (own / f"test.{ending}").write_text(content, encoding="utf-8")
            found.setdefault(name, {})[part] = own
    return found


def markdown(results: dict[str, Any]) -> str:
    """The tables: test scores, mean ± standard error over seeds."""
    machine = results["environment"]
    lines = [
        "# Text students at half width",
        "",
        f"Made by `{results['command']}`",
        f"with torch {machine['torch']}, transformers {machine['transformers']} on {machine['cpu']}, "
        f"{machine['threads']} thread(s).",
        "Distillation from both teachers without labels; the learning rate is chosen on validation data for every",
        "contender alike; test scores, mean ± standard error over seeds of calibration samples and finetuning.",
        "",
    ]
    for name, found in results["pairs"].items():
        metric = "accuracy, %" if found["metric"] == "accuracy" else "perplexity, lower is better"
        metric += f"; {found['steps']} steps of finetuning, {found['seeds']} seeds"
        lines += [
            f"## {name}: {metric}",
            "",
            "| model | parameters | one-shot | finetuned | learning rate | seconds to make |",
        ]
        lines += ["| :-- | --: | --: | --: | --: | --: |"]
        for teacher, score in found["teachers"].items():
            lines.append(f"| {teacher} | {found['parameters'][teacher] / 1e6:.2f} M | {score:.1f} | | | |")
        lines.append(f"| ensemble | | {found['ensemble']:.1f} | | | |")
        for contender, row in found["contenders"].items():
            lines.append(
                f"| {contender} | {row['parameters'] / 1e6:.2f} M | {_spread(row['one_shot'])} "
                f"| {_spread(row['finetuned'])} | {row['rate']:g} | {row['seconds']:.1f} |"
            )
        lines.append("")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=Path, required=True, help="folder that teachers.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder with SST-2's train, dev and test.tsv")
    parser.add_argument("--text", type=Path, required=True, help="tiny Shakespeare, a text file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS), choices=list(PAIRS), help="which pairs")
    parser.add_argument("--steps", type=int, default=200, help="steps of the finetune")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of calibration and finetune")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "students.json"
    command = "python benchmarks/text/students.py --teachers out --data sst2 --text tinyshakespeare.txt -o results"
    machine = {**environment(), "threads": arguments.threads}
    results: dict[str, Any] = {"pairs": {}}
    if file.exists():
        results = json.loads(file.read_text(encoding="utf-8"))
    results |= {"command": command, "environment": machine}
    with tempfile.TemporaryDirectory(prefix="students-") as scratch:
        data = parts(arguments, Path(scratch))
        for name in arguments.pairs:
            contest = Contest(PAIRS[name], arguments.teachers, data[PAIRS[name].text], arguments.steps, Path(scratch))
            models = [teacher.model for teacher in contest.teachers]
            *alone, together = contest.scores(models, "test")
            names = [Path(teacher.name).name for teacher in contest.teachers]
            found = results["pairs"].setdefault(name, {"contenders": {}})
            found |= {
                "metric": PAIRS[name].metric, "steps": arguments.steps, "seeds": arguments.seeds,
                "teachers": dict(zip(names, alone, strict=True)), "ensemble": together,
                "parameters": {n: m.num_parameters() for n, m in zip(names, models, strict=True)},
            }  # fmt: skip
            for contender, maker in CONTENDERS.items():
                if contender not in found["contenders"]:
                    found["contenders"][contender] = contest.run(maker, arguments.seeds)
                    print(name, contender, json.dumps(found["contenders"][contender]), flush=True)
                file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                (arguments.output / "students.md").write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    main()
