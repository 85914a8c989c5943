"""Untrained teachers of the benchmark's tasks, and a few samples of their data."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tasks.__main__ import ALL_SETTINGS


def save_task_teacher(folder, task, seed=0, change=None):
    """A teacher of a task's setting; `change` gets its config and its processor before it is built."""
    import torch

    from compressor.models.configs.reading import model_class
    from compressor.models.folder.save import save_student

    config, processor = ALL_SETTINGS[task].config(), ALL_SETTINGS[task].processor()
    if change is not None:
        change(config, processor)
    torch.manual_seed(seed)
    Path(folder).mkdir(parents=True)
    save_student(folder, model_class(config)(config).eval(), processor)
    return Path(folder)


def save_task_data(folder, task, samples):
    """Samples of a task by split, in a folder that does not exist."""
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    ALL_SETTINGS[task].save(Path(folder), samples)
    return Path(folder)
