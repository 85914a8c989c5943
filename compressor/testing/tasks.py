"""Synthetic tasks that train tiny teachers of any family in seconds.

Teachers of different seeds share only the task, so their coordinates differ like those of independent models.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compressor.anatomy.hooks import logits_of
from compressor.ensemble.answers import model_answers
from compressor.models.configs.reading import model_class
from compressor.models.inputs import dummy_inputs, without_labels
from compressor.models.tasks.table import find_task, task_of_model

LabelledBatch = dict[str, Tensor]
#: Positions of a text; samples of a batch.
_LENGTH, _BATCH = 12, 64


@dataclass(frozen=True)
class SyntheticTask:
    """Makes batches of inputs with labels, and the loss of a model on a batch."""

    batch: Callable[[int], LabelledBatch]
    loss: Callable[[nn.Module, LabelledBatch], Tensor]


def task_for(config: Any) -> SyntheticTask:
    """The synthetic task of a config."""
    return _TASKS[find_task(config).name](config)


def train_briefly(config: PretrainedConfig, seed: int, steps: int) -> PreTrainedModel:
    """A model of a config, trained with Adam on its synthetic task."""
    torch.manual_seed(seed)
    config = copy.deepcopy(config)
    config._attn_implementation = config._experts_implementation = "eager"
    model: Any = model_class(config)(config)
    task = task_for(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    model.train()
    for step in range(steps):
        loss = task.loss(model, task.batch(10_000 * (seed + 1) + step))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def _cross_entropy(model: nn.Module, batch: LabelledBatch) -> Tensor:
    logits = logits_of(model, without_labels(batch))
    return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch["labels"].reshape(-1))


def _next_token(model: nn.Module, batch: LabelledBatch) -> Tensor:
    logits = logits_of(model, without_labels(batch))[:, :-1]
    return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch["input_ids"][:, 1:].reshape(-1))


def _images(config: Any) -> SyntheticTask:
    """Classes of five noisy patterns each."""
    shape = dummy_inputs(config, 1)["pixel_values"].shape[1:]
    patterns = torch.randn(5 * config.num_labels, *shape, generator=torch.Generator().manual_seed(1))

    def batch(index: int) -> LabelledBatch:
        generator = torch.Generator().manual_seed(index)
        which = torch.randint(len(patterns), (_BATCH,), generator=generator)
        noise = torch.randn(_BATCH, *shape, generator=generator)
        return {"pixel_values": patterns[which] + 1.5 * noise, "labels": which % config.num_labels}

    return SyntheticTask(batch, _cross_entropy)


def _texts(config: Any) -> SyntheticTask:
    """Classes that differ by their token distributions."""
    distributions = _distributions(config.num_labels, config.vocab_size)

    def batch(index: int) -> LabelledBatch:
        generator = torch.Generator().manual_seed(index)
        labels = torch.randint(config.num_labels, (_BATCH,), generator=generator)
        ids = torch.multinomial(distributions[labels], _LENGTH, replacement=True, generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    return SyntheticTask(batch, _cross_entropy)


def _label_sets(config: Any) -> SyntheticTask:
    """Each of three times as many classes has a set of labels of its own."""
    base, classes = _classified(config, 3 * config.num_labels)
    generator = torch.Generator().manual_seed(7)
    sets = (torch.rand(classes, config.num_labels, generator=generator) < 0.4).float()

    def batch(index: int) -> LabelledBatch:
        samples = base.batch(index)
        return {**samples, "labels": sets[samples["labels"]]}

    return SyntheticTask(batch, _label_loss)


def _values(config: Any) -> SyntheticTask:
    """Each of six classes has values of its own."""
    base, classes = _classified(config, 6)
    values = torch.randn(classes, config.num_labels, generator=torch.Generator().manual_seed(8))

    def batch(index: int) -> LabelledBatch:
        samples = base.batch(index)
        return {**samples, "labels": values[samples["labels"]]}

    return SyntheticTask(batch, _label_loss)


def _classified(config: Any, classes: int) -> tuple[SyntheticTask, int]:
    """Images or texts of more classes than the config has outputs."""
    labelled = copy.deepcopy(config)
    labelled.num_labels = classes
    return (_images if hasattr(config, "image_size") else _texts)(labelled), classes


def _label_loss(model: nn.Module, batch: LabelledBatch) -> Tensor:
    inputs, task = without_labels(batch), task_of_model(model)
    return model_answers(model).label_loss(task, logits_of(model, inputs), batch["labels"], inputs)


def _tags(config: Any) -> SyntheticTask:
    """A token's tag depends on the token and on the class of its text."""
    texts = _texts(config)
    table = torch.randint(config.num_labels, (config.vocab_size,), generator=torch.Generator().manual_seed(2))

    def batch(index: int) -> LabelledBatch:
        texts_and_classes = texts.batch(index)
        tags = (table[texts_and_classes["input_ids"]] + texts_and_classes["labels"][:, None]) % config.num_labels
        return {**texts_and_classes, "labels": tags}

    return SyntheticTask(batch, _cross_entropy)


def _language(config: Any) -> SyntheticTask:
    """Texts in which a token depends on the two before it."""
    chains = _chains(config.vocab_size)

    def batch(index: int) -> LabelledBatch:
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(3, config.vocab_size, (_BATCH, _LENGTH), generator=generator)
        for place in range(2, _LENGTH):
            chances = (chains[0][ids[:, place - 1]] + chains[1][ids[:, place - 2]]).softmax(-1)
            ids[:, place] = torch.multinomial(chances, 1, generator=generator)[:, 0]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return SyntheticTask(batch, _next_token)


def _translation(config: Any) -> SyntheticTask:
    """A target token depends on the one before it and on the class of the source."""
    chains, distributions = _chains(config.vocab_size), _distributions(4, config.vocab_size)
    source = dummy_inputs(config, _BATCH, _LENGTH)
    features = source.get("input_features")
    patterns = (
        None if features is None else torch.randn(4, *features.shape[1:], generator=torch.Generator().manual_seed(3))
    )

    def batch(index: int) -> LabelledBatch:
        generator = torch.Generator().manual_seed(index)
        kind = torch.randint(4, (_BATCH,), generator=generator)
        ids = torch.randint(3, config.vocab_size, (_BATCH, _LENGTH), generator=generator)
        for place in range(1, _LENGTH):
            chances = (chains[0][ids[:, place - 1]] + 1.5 * distributions[kind].log()).softmax(-1)
            ids[:, place] = torch.multinomial(chances, 1, generator=generator)[:, 0]
        targets = {"decoder_input_ids": ids[:, :-1], "labels": ids[:, 1:]}
        if patterns is not None:
            noise = torch.randn(_BATCH, *patterns.shape[1:], generator=generator)
            return {**targets, "input_features": patterns[kind] + noise}
        texts = torch.multinomial(distributions[kind], _LENGTH, replacement=True, generator=generator)
        return {**targets, "input_ids": texts, "attention_mask": torch.ones_like(texts)}

    return SyntheticTask(batch, _cross_entropy)


def _features(config: Any) -> SyntheticTask:
    """Classes, read by a fixed random probe from the mean of the last hidden state."""
    base = _images(_with_labels(config)) if hasattr(config, "image_size") else _texts(_with_labels(config))
    probe = probe_of(config)

    def loss(model: nn.Module, batch: LabelledBatch) -> Tensor:
        hidden = logits_of(model, without_labels(batch)).mean(dim=1)
        return nn.functional.cross_entropy(hidden @ probe, batch["labels"])

    return SyntheticTask(base.batch, loss)


def probe_of(config: PretrainedConfig) -> Tensor:
    """A fixed random probe from the features of a model without a head to five classes, [hidden, 5]."""
    return torch.randn(config.hidden_size, 5, generator=torch.Generator().manual_seed(4))


def _with_labels(config: PretrainedConfig) -> PretrainedConfig:
    labelled = copy.deepcopy(config)
    labelled.num_labels = 5
    return labelled


def _distributions(classes: int, vocabulary: int) -> Tensor:
    """Token distributions [classes, vocabulary], without special ids."""
    chances = torch.randn(classes, vocabulary, generator=torch.Generator().manual_seed(5)).mul(0.8).softmax(-1)
    chances[:, :3] = 0
    return (chances / chances.sum(-1, keepdim=True)).clamp(min=1e-6)


def _chains(vocabulary: int) -> Tensor:
    """Logits of the next token by each of the two before it [2, vocabulary, vocabulary]."""
    generator = torch.Generator().manual_seed(6)
    left, right = (torch.randn(2, vocabulary, 6, generator=generator) for _ in range(2))
    logits = 0.8 * left @ right.transpose(1, 2)
    logits[:, :, :3] = -30.0
    return logits


_TASKS: dict[str, Callable[[PretrainedConfig], SyntheticTask]] = {
    "image-classification": _images,
    "image-multi-label": _label_sets,
    "image-regression": _values,
    "text-classification": _texts,
    "text-multi-label": _label_sets,
    "text-regression": _values,
    "token-classification": _tags,
    "causal-lm": _language,
    "seq2seq-lm": _translation,
    "features": _features,
}
