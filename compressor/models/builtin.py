"""Built-in teachers, small ViTs trained on first use, and scikit-learn's digits.

Each teacher is an expert: of half of the classes it sees all images, of the others only a few.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from filelock import FileLock
from platformdirs import user_cache_dir
from torch import Tensor

from compressor.errors import UserError
from compressor.utils.files import atomic_directory
from compressor.utils.scratch import tidy
from compressor.utils.threads import torch_threads

if TYPE_CHECKING:
    from transformers import ViTConfig

OnTrainingProgress = Callable[[float, str], None]

#: Digits held out from all built-in teachers.
TEST_SAMPLES = 497
CLASSES = tuple(str(digit) for digit in range(10))


def digits(role: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray]:
    """One part of scikit-learn's digits, always the same.

    Returns:
        Shuffled images, uint8 [N, 8, 8], and labels, int64 [N]; N is 1,300 or 497.
    """
    # Takes a second to import.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    # The pixels count 0..16 dots.
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    train, test = train_test_split(np.arange(len(labels)), test_size=TEST_SAMPLES, random_state=0, stratify=labels)
    rows = train if role == "train" else test
    return images[rows], labels[rows].astype(np.int64)


@dataclass(frozen=True)
class Training:
    """Training of a built-in teacher; changes make a new cache folder.

    Attributes:
        classes: those that it is an expert of.
        others: images of every other class that it sees.
        others_share: share of these in its batches.
    """

    seed: int
    classes: tuple[int, ...]
    others: int = 2
    others_share: float = 0.05
    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    hidden_size: int = 64
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 256
    patch_size: int = 2
    # With the usual 0.02, half of the training passes before the loss falls.
    initializer_range: float = 0.1
    version: int = 2


BUILTIN: dict[str, Training] = {
    "vit-a": Training(seed=0, classes=(0, 1, 2, 3, 4)),
    "vit-b": Training(seed=1, classes=(5, 6, 7, 8, 9)),
}


def builtin_data(name: str) -> str:
    """A teacher's training data, for `open_split`."""
    _training(name)
    return "digits"


def builtin_config(name: str) -> ViTConfig:
    """A built-in teacher's config."""
    from transformers import ViTConfig

    training = _training(name)
    return ViTConfig(
        architectures=["ViTForImageClassification"],
        image_size=8,
        # Three equal channels: pipelines of transformers pass RGB.
        num_channels=3,
        patch_size=training.patch_size,
        hidden_size=training.hidden_size,
        num_hidden_layers=training.layers,
        num_attention_heads=training.heads,
        intermediate_size=training.intermediate_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=training.initializer_range,
        id2label=dict(enumerate(CLASSES)),
        label2id={label: index for index, label in enumerate(CLASSES)},
    )


def cache_folder() -> Path:
    """$COMPRESSOR_CACHE, or the user's cache."""
    return Path(os.environ.get("COMPRESSOR_CACHE") or user_cache_dir("compressor", appauthor=False)).expanduser()


def builtin_folder(name: str) -> Path:
    """A built-in teacher's cache folder, which may not exist."""
    recipe = json.dumps(asdict(_training(name)), sort_keys=True)
    return cache_folder() / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure_builtin(name: str, progress: OnTrainingProgress | None = None) -> Path:
    """The folder of a built-in teacher, trained if not cached.

    Args:
        progress: gets the share done and a message.

    Raises:
        UserError: no such teacher, or no writable cache.
    """
    folder = builtin_folder(name)
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(folder.name + ".lock")).acquire()
    except OSError as error:
        place = folder.parent
        raise UserError(f"cannot cache {name} in {place} ({error}): set COMPRESSOR_CACHE to another folder") from None
    with lock:
        # Another process may have trained it meanwhile.
        if not folder.exists():
            for line in tidy(folder):
                if progress:
                    progress(0.0, line)
            with atomic_directory(folder) as partial:
                _train(name, partial, progress)
    return folder


def _training(name: str) -> Training:
    if name not in BUILTIN:
        raise UserError(f"no built-in teacher is called '{name}': there are {', '.join(BUILTIN)}")
    return BUILTIN[name]


def _train(name: str, folder: Path, progress: OnTrainingProgress | None) -> None:
    # Imported here: finding the cache folder needs no transformers.
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    from compressor.models.folder.save import save_student

    training = _training(name)
    processor = ViTImageProcessorPil(
        do_resize=True,
        size={"height": 8, "width": 8},
        do_convert_rgb=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    images, labels = digits("train")
    # As the processor, for all images: [N, 3, 8, 8] in [-1, 1].
    pixels = torch.from_numpy(images.astype(np.float32) / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)
    targets = torch.from_numpy(labels)
    with _reproducible(training.seed):
        model = ViTForImageClassification(builtin_config(name))
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, training.learning_rate, total_steps=training.steps, pct_start=0.1
        )
        criterion = torch.nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
        for step, rows in enumerate(_batches(targets, training)):
            if progress and step % max(training.steps // 100, 1) == 0:
                progress(step / training.steps, f"training the built-in teacher {name} on digits (first use)")
            loss = criterion(model(pixel_values=pixels[rows]).logits, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    save_student(folder, model.eval(), processor)
    if progress:
        progress(1.0, f"trained the built-in teacher {name}")


def _batches(targets: Tensor, training: Training) -> Iterator[Tensor]:
    """Rows of samples with these classes, mostly of the teacher's own."""
    own = torch.isin(targets, torch.tensor(training.classes)).nonzero()[:, 0]
    rest = [number for number in range(len(CLASSES)) if number not in training.classes]
    few = torch.cat([(targets == number).nonzero()[: training.others, 0] for number in rest])
    order, size = torch.Generator().manual_seed(training.seed), (training.batch_size,)
    for _ in range(training.steps):
        other = torch.rand(size, generator=order) < training.others_share
        rare, usual = (rows[torch.randint(len(rows), size, generator=order)] for rows in (few, own))
        yield torch.where(other, rare, usual)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    # One thread, so that sums do not depend on the number of cores.
    with torch_threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
