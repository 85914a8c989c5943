"""A model card's metadata, as the Hub reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from compressor.models.tasks.table import TASKS
from compressor.recipe import Recipe
from compressor.utils.markdown import visible_line
from compressor.utils.revisions import split_revision


def front_matter(recipe: Recipe, report: Mapping[str, Any], task: str) -> str:
    """Metadata as the Hub reads it: names there must be of the Hub, so local teachers and data are left out."""
    tag = TASKS[task].tag or task
    bases = [
        split_revision(teacher["name"])[0] for teacher in report.get("teachers") or [] if teacher.get("kind") == "hub"
    ]
    dataset = (report.get("evaluation") or {}).get("dataset")
    results = _results(report, task, tag)
    data = ModelCardData(
        base_model=bases or None,
        datasets=[dataset] if dataset else None,
        eval_results=results or None,
        library_name="sentence-transformers" if TASKS[task].answers == "embeddings" else "transformers",
        metrics=[result.metric_type for result in results] or None,
        model_name=visible_line(Path(recipe.output).name or "student") if results else None,
        pipeline_tag=tag,
        tags=["model-fusion", "optimal-transport", "compression", *(["onnx"] if report.get("onnx") else [])],
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(report: Mapping[str, Any], task: str, tag: str) -> list[EvalResult]:
    """The student's scores, for the Hub's `model-index`."""
    evaluation, rows = report.get("evaluation") or {}, report.get("table") or []
    if not rows or not evaluation.get("data"):
        return []
    name = visible_line(data_name(report))
    source, split = _parted(name)
    student = rows[-1]
    return [
        EvalResult(
            task_type=tag, dataset_type=evaluation.get("dataset") or source, dataset_name=name, dataset_split=split,
            metric_type=metric, metric_value=round(student[metric], 4),
        )
        for metric in TASKS[task].metrics
        if student.get(metric) is not None
    ]  # fmt: skip


def data_name(report: Mapping[str, Any]) -> str:
    """The evaluation data; of local files and folders the last part of the path."""
    evaluation = report["evaluation"]
    if "dataset" not in evaluation or evaluation["dataset"]:
        return str(evaluation["data"])
    source, split = _parted(evaluation["data"])
    name = ", ".join(Path(part.strip()).name or part for part in source.split(","))
    return name if split is None else f"{name} ({split})"


def _parted(data: str) -> tuple[str, str | None]:
    """Source and split of a name such as "digits (test)"."""
    match = re.fullmatch(r"(.*) \((\w+)\)", data, re.DOTALL)
    return (match[1], match[2]) if match else (data, None)
