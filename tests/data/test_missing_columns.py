"""Data without what a task reads: a line that says what is missing."""

from __future__ import annotations

import json
import shutil

import pytest
from command import compress
from tiny_tasks import save_task_data, save_task_teacher

#: {task: {column that is left out: what the line says}}.
CASES = {
    "text-regression": {"text": "text column", "rating": "no labels"},
    "text-multi-label": {"text": "text column", "labels": "no labels"},
    "question-answering": {"question": "questions and contexts", "context": "--text-column", "answers": "no labels"},
    "multiple-choice": {"ending": "columns of choices", "label": "no labels"},
    "image-regression": {"image": "image", "values": "no labels"},
    "speech-to-text": {"file": "column of sounds", "text": "column of transcripts (text"},
    "ctc": {"file": "column of sounds", "text": "no labels"},
    "object-detection": {"file_name": "--image-column", "objects": "no labels"},
    "image-text": {"file_name": "--image-column", "caption": "--text-column"},
    "semantic-segmentation": {"masks": "no labels"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{task: (a teacher, samples)}, made when asked for."""
    root, models = tmp_path_factory.mktemp("made"), {}

    def get(task):
        if task not in models:
            data = save_task_data(root / f"{task}-data", task, {"train": 12, "test": 12})
            models[task] = save_task_teacher(root / task, task), data
        return models[task]

    return get


def leave_out(folder, name):
    """Remove a folder, or the columns that begin so."""
    shutil.rmtree(folder / name, ignore_errors=True)
    for file in folder.rglob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        kept = [{key: value for key, value in row.items() if not key.startswith(name)} for row in rows]
        file.write_text("\n".join(map(json.dumps, kept)) + "\n", encoding="utf-8")
    for file in folder.rglob("*.parquet"):
        from datasets import Dataset

        Dataset.from_parquet(str(file)).remove_columns([name]).to_parquet(str(file))


@pytest.mark.parametrize(("task", "name"), [(task, name) for task, columns in CASES.items() for name in columns])
def test_what_is_missing_is_named(capsys, tmp_path, made, task, name):
    teacher, data = made(task)
    folder = shutil.copytree(data, tmp_path / "data")
    leave_out(folder, name)
    code, out, err = compress(capsys, "evaluate", teacher, "--data", folder, "--eval-samples", 8)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert CASES[task][name] in err
