"""Every command on every task, and what its model card says, with untrained teachers and a few samples."""

from __future__ import annotations

import pytest
from tiny_tasks import save_task_data, save_task_teacher

from benchmarks.tasks.__main__ import ALL_SETTINGS
from benchmarks.tasks.commands import NONE, OK, STEPS, card_programs, command_table, try_commands

#: {(task, step): what its line says}: limits that docs/limits.md names.
LIMITS = {("ctc", "export"): "input_features"}


@pytest.mark.slow
@pytest.mark.parametrize("task", ALL_SETTINGS)
def test_every_command_ends_well(task, tmp_path):
    data = save_task_data(tmp_path / "data", task, {"train": 80, "test": 24})
    teachers = [save_task_teacher(tmp_path / str(seed), task, seed) for seed in range(2)]
    ended = try_commands(task, teachers, data, tmp_path / "commands")
    wrong = {step: ended.get(step) for step in STEPS if ended.get(step) not in (OK, NONE)}
    limits = {step: said for (name, step), said in LIMITS.items() if name == task}
    assert wrong.keys() == limits.keys(), wrong
    assert all(said in wrong[step] and "bug" not in wrong[step] for step, said in limits.items())


def test_a_table_names_errors_in_full():
    ended = dict.fromkeys(STEPS, OK) | {"bench": "exit code 2: error: no model"}
    table = command_table({"ctc": ended, "captions": {"fuse": OK}})
    assert "| ctc | ok | ok | ok | ok | **error** | ok | ok |" in table
    assert "- ctc, bench: exit code 2: error: no model\n" in table and "- captions, card: not run" in table


def test_programs_of_a_card(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(
        "# A\n\n```python\nprint(1)\n```\n\n```bash\nls\n```\n\n```python\nprint(2)\n```\n", encoding="utf-8"
    )
    assert card_programs(card) == ["print(1)\n", "print(2)\n"]
