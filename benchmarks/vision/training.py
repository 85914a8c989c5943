"""One teacher from its recipe: trained from scratch by a plain loop, then measured as it was saved.

Not by the Trainer of transformers: on one thread, a loader that decodes and preprocesses image by image takes as long
as these models do.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    ViTImageProcessor,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from benchmarks.common.teachers import Progress, Scores, TeacherRecipe, Trained
from benchmarks.vision.pictures import Cifar, Images, augmented, normalised, preprocessor, shuffled
from compressor.models.folder.save import save_student
from compressor.utils.logging import quiet_transformers

EVALUATION_BATCH = 250


def train_teacher(
    recipe: TeacherRecipe,
    data: Cifar,
    folder: Path,
    progress: Progress,
    device: str = "cpu",
    start: Path | None = None,
) -> Trained:
    """Train by `recipe` and write the teacher, a plain Hugging Face folder, into the existing `folder`.

    Args:
        start: folder of a model that is trained further, instead of one by the recipe's config.
    """
    set_seed(recipe.seed)
    model = (_model(recipe, data.classes) if start is None else _load(start)).to(device)  # type: ignore[arg-type]
    processor = preprocessor()
    begun = time.perf_counter()
    best_step = _fit(model, recipe, data, processor, progress)
    seconds = time.perf_counter() - begun
    save_student(folder, model.cpu().eval(), processor)
    return Trained(
        validation=score(folder, data.validation, device),
        test=score(folder, data.test, device),
        best_step=best_step,
        steps=recipe.steps,
        seconds=round(seconds, 1),
        parameters=model.num_parameters(),
    )


def score(folder: Path, images: Images, device: str = "cpu") -> Scores:
    """Load a teacher's folder and measure it on `images`."""
    with quiet_transformers():
        processor = AutoImageProcessor.from_pretrained(folder)
    return _scores(_load(folder).to(device), images, processor)  # type: ignore[arg-type]


def _load(folder: Path) -> PreTrainedModel:
    with quiet_transformers():
        return AutoModelForImageClassification.from_pretrained(folder)


def _model(recipe: TeacherRecipe, classes: tuple[str, ...]) -> PreTrainedModel:
    names = dict(enumerate(classes))
    numbers = {name: index for index, name in names.items()}
    config = AutoConfig.for_model(**recipe.config, id2label=names, label2id=numbers)
    return AutoModelForImageClassification.from_config(config)


def _fit(
    model: PreTrainedModel, recipe: TeacherRecipe, data: Cifar, processor: ViTImageProcessor, progress: Progress
) -> int:
    """Train `model`, leave the weights of the best look at the validation images in it, and return that look's step."""
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.learning_rate, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(recipe.steps / 10), recipe.steps)
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = shuffled(len(data.train), recipe.batch_size, generator)
    best, best_step, weights = -1.0, 0, model.state_dict()
    for step in range(1, recipe.steps + 1):
        batch = data.train.select(next(batches))
        model.train()
        pixels = augmented(batch.pixels, generator).to(model.device)
        logits = model(normalised(pixels, processor)).logits
        optimizer.zero_grad()
        cross_entropy(logits, batch.labels.to(model.device), label_smoothing=recipe.label_smoothing).backward()
        optimizer.step()
        schedule.step()
        if step % recipe.evaluate_every == 0 or step == recipe.steps:
            scores = _scores(model, data.validation, processor)
            progress(step, scores)
            if scores["accuracy"] > best:
                best, best_step = scores["accuracy"], step
                weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    return best_step


def _groups(model: PreTrainedModel, weight_decay: float) -> list[dict]:
    """Weights decay; biases and norms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def _scores(model: PreTrainedModel, images: Images, processor: ViTImageProcessor) -> Scores:
    model.eval()
    batches = (part.to(model.device) for part in images.pixels.split(EVALUATION_BATCH))
    logits = torch.cat([model(normalised(part, processor)).logits for part in batches]).cpu()
    return {
        "accuracy": (logits.argmax(-1) == images.labels).float().mean().item(),
        "loss": cross_entropy(logits, images.labels).item(),
    }
