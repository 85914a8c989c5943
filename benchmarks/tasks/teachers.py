"""Teachers of a task, trained from scratch on the folder that `compress fuse --data` reads too."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.tasks.settings import TaskSetting
from compressor.data.batches import Samples
from compressor.data.samples import collate
from compressor.data.sources import open_split
from compressor.ensemble.answers import model_answers
from compressor.models.configs.reading import model_class
from compressor.models.folder.save import save_student
from compressor.models.inputs import without_labels
from compressor.models.tasks.table import task_logits, task_of_model
from compressor.models.teacher import ModelSpec
from compressor.recipe import DataOptions

BATCH = 64
#: Standard deviation of tables of places.
_PLACES = 0.5


def _tell_apart(model: nn.Module) -> None:
    """Draw tables of places that begin as zeros: alike, detectors' places take long to learn what each is for."""
    for parameter in model.parameters():
        if parameter.dim() > 2 and not parameter.any():
            nn.init.normal_(parameter, std=_PLACES)


def train_teacher(setting: TaskSetting, data: Path, folder: Path, seed: int) -> None:
    """Train by AdamW with one cycle of the learning rate, and write the teacher into an existing folder."""
    torch.manual_seed(seed)
    config = setting.config()
    model = model_class(config)(config).train()
    _tell_apart(model)
    spec, processor = ModelSpec.of(config), setting.processor()
    options = DataOptions(source=str(data))
    split = open_split(options, "train", id2label=spec.labels, task=spec.task, reads=spec.reads)
    samples, task = Samples(split, processor, spec, labels=True, cache_bytes=1 << 28), task_of_model(model)
    answers, order = model_answers(model), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=setting.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, setting.learning_rate, setting.steps, pct_start=0.1)
    for _ in range(setting.steps):
        rows = torch.randint(len(samples), (BATCH,), generator=order).tolist()
        batch = collate(samples.__getitems__(rows), 0)
        inputs = without_labels(batch)
        logits = task_logits(task, model(**inputs), inputs)
        loss = answers.label_loss(task, logits, batch["labels"], inputs)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    save_student(folder, model.eval(), processor)
