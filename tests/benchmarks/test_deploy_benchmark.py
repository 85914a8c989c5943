"""That the frontier reads students' folders, gives ratios to the teacher, and draws the same figure again."""

import json
from pathlib import Path

import pytest
from transformers import ViTConfig

from benchmarks.deploy.frontier import MeasuredStudent, draw, measured_student, table


@pytest.fixture
def students():
    shapes = (("auto", "12 heads of 8", 0.5, 0.375, 0.6, 0.01), ("fewer-heads", "3 heads of 32", 0.5, 0.5, 0.5, 0.2))
    return [MeasuredStudent(Path(name), name, *others) for name, *others in shapes]


def test_a_folder_of_a_run(tmp_path):
    row = {"accuracy": 0.6, "kl": 0.01}
    report = {
        "table": [{"accuracy": 0.7, "kl": 0.0}, row],
        "recipe": {"width": 0.5, "fusion": {"narrowing": "auto", "ffn": None}},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    ViTConfig(hidden_size=96, num_attention_heads=12).save_pretrained(tmp_path)
    assert measured_student(tmp_path) == MeasuredStudent(tmp_path, "auto", "12 heads of 8", 0.5, 0.5, 0.6, 0.01)


def test_ratios_are_to_the_teacher(students):
    lines = table(students, {1: {"teacher": 4.0, "auto": 2.0, "fewer-heads": 1.0}})
    assert lines[2:] == [
        "| 0.5, FFN 0.375, 12 heads of 8 | 60.0 | 0.0100 | 2.00, 2.00 |",
        "| 0.5, 3 heads of 32 | 50.0 | 0.2000 | 1.00, 4.00 |",
    ]


def test_the_figure_is_the_same_again(tmp_path, students):
    times = {1: {"teacher": 4.0, "auto": 2.0, "fewer-heads": 1.0}}
    for name in ("a.svg", "b.svg"):
        draw(students, times, 1, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second and b"<svg" in first
