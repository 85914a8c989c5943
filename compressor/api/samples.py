"""Data of the user as model inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from compressor.api.kinds import GivenData, batch_size_of
from compressor.api.models import main_input, processor_of
from compressor.data.samples import Sample, collate
from compressor.data.tensor_batches import TensorBatches
from compressor.errors import UserError
from compressor.fusion.mixture import chooses_mixture
from compressor.models.inputs import size_pair, without_labels
from compressor.models.teacher import Teacher
from compressor.recipe import Recipe

if TYPE_CHECKING:
    from compressor.data.batches import Batches
    from compressor.data.split import Split


@dataclass(frozen=True)
class DataReader:
    """Reads the user's data as the inputs of models.

    Attributes:
        given: see `compressor.api.kinds`.
        teachers: whose inputs are read; the first's processor.
        recipe: columns, counts and seed.
        call: for messages.
    """

    given: GivenData
    teachers: Sequence[Teacher]
    recipe: Recipe
    call: str

    @cached_property
    def processor(self) -> Any:
        """The teachers' preprocessor or tokenizer."""
        return processor_of(self.teachers, self.call)

    def calibration(self) -> tuple[Sample, ...]:
        """Batches; of raw samples as many as the recipe says, drawn with its seed.

        Labels come along where they choose the ensemble's mixture.
        """
        chooses = chooses_mixture(len(self.teachers), self.recipe.fusion)
        options = self.recipe.calibration
        given = self._inputs("train", options.samples)
        if given.kind in ("tensors", "samples"):
            batches = self._tensors(given, options.batch_size, options.samples)
            return tuple(batches) if chooses else tuple(without_labels(batch) for batch in batches)
        from compressor.data.batches import packed

        data = self.recipe.data
        split = packed(self._open("train", options.samples), self.processor, self.teachers[0].spec, data.max_length)
        drawn = split.take(options.samples, seed=self.recipe.seed)
        labels = chooses and self.teachers[0].spec.task.columns and split.label is not None
        return tuple(self._batches(drawn, options.batch_size, labels=labels, seed=self.recipe.seed))

    def evaluation(self) -> Batches | TensorBatches:
        """Batches with labels, if there are any.

        Raises:
            UserError: unreadable or unfit data.
        """
        options, spec = self.recipe.evaluation, self.teachers[0].spec
        given = self._inputs("eval", options.samples)
        if given.kind in ("tensors", "samples"):
            return TensorBatches(self._tensors(given, options.batch_size, options.samples), given.name, spec.task)
        from compressor.data.batches import packed
        from compressor.pipeline.data_splits import EVALUATION_SEED

        opened = self._open("eval", options.samples)
        split = packed(opened, self.processor, spec, self.recipe.data.max_length, options.samples)
        split = split if options.samples is None else split.take(options.samples)
        labels = split.label is not None or not spec.task.columns
        return self._batches(split, options.batch_size, labels=labels, seed=EVALUATION_SEED)

    def training(self) -> Any:
        """Samples, with labels if the recipe learns them; see `TrainingSamples`."""
        given = self._inputs("train")
        if given.kind == "samples":
            self._check(given.value[0], 0)
            return given.value
        if given.kind == "tensors":
            return [row for entry in self._entries(given) for row in _rows(entry)]
        from compressor.data.batches import Samples
        from compressor.pipeline.data_splits import CACHE_BYTES

        return Samples(
            self._open("train"),
            self.processor,
            self.teachers[0].spec,
            labels=self.recipe.finetune.label_weight > 0,
            cache_bytes=CACHE_BYTES,
            max_length=self.recipe.data.max_length,
            seed=self.recipe.seed,
        )

    def _batches(self, split: Split, batch_size: int, *, labels: bool, seed: int) -> Batches:
        from compressor.data.batches import Batches

        return Batches(
            split, self.processor, batch_size, labels=labels, spec=self.teachers[0].spec, cache_bytes=0,
            max_length=self.recipe.data.max_length, seed=seed,
        )  # fmt: skip

    def _inputs(self, role: Literal["train", "eval"], most: int | None = None) -> GivenData:
        """The data; a dataset of model inputs, such as one that was tokenised, as samples of tensors."""
        if self.given.kind not in ("dataset", "rows"):
            return self.given
        from compressor.api.datasets import tensor_rows

        rows = tensor_rows(self.given, self.teachers[0].model, role, self.recipe.data, most)
        return self.given if rows is None else GivenData("samples", rows, self.given.name)

    def _open(self, role: Literal["train", "eval"], most: int | None = None) -> Split:
        """The samples for a role; the first `most` of a stream."""
        from compressor.api.datasets import splits_of
        from compressor.data.sources import open_split

        spec = self.teachers[0].spec
        options = self.recipe.data.model_copy(update={"source": self.given.name})
        paths = spec.reads if spec.reads in ("image", "audio") else "text"
        splits = None if self.given.kind == "source" else splits_of(self.given, paths, most)
        return open_split(options, role, id2label=spec.labels, task=spec.task, reads=spec.reads, splits=splits)

    def _tensors(self, given: GivenData, batch_size: int, most: int | None) -> list[Sample]:
        """Batches of given tensors; single samples are joined.

        Raises:
            UserError: names an input that the model does not read.
        """
        entries = self._entries(given, most)
        if batch_size_of(entries[0]) is not None:
            return entries
        pad = self.teachers[0].spec.pad_id
        return [collate(entries[start : start + batch_size], pad) for start in range(0, len(entries), batch_size)]

    def _entries(self, given: GivenData, most: int | None = None) -> list[Sample]:
        """The given dicts of tensors, all batches or all samples; at most `most` of those read when needed."""
        value, lazy = given.value, given.kind == "samples"
        count = len(value) if most is None or not lazy else min(most, len(value))
        entries = [dict(value[index]) for index in range(count)]
        for index, entry in enumerate(entries):
            self._check(entry, index)
        if len({batch_size_of(entry) is None for entry in entries}) > 1:
            raise UserError(f"{self.call}: some entries are batches and some are single samples: give one kind")
        return entries

    def _check(self, entry: Mapping[str, Tensor], index: int) -> None:
        _check_inputs(entry, self.teachers[0].model, f"{self.call}: entry {index}")


def check_source(given: GivenData | None) -> None:
    """Refuse a local path of data that is missing or unreadable, before models are loaded.

    Raises:
        UserError: see `compressor.data.source_splits.find_splits`.
    """
    from compressor.data.source_splits import DATA_FORMATS, find_splits

    if given is not None and given.kind == "texts":
        paths = [os.fspath(text) for text in given.value]
        if all(os.path.splitext(path)[1].lower() in DATA_FORMATS and os.path.exists(path) for path in paths):
            raise UserError(f"these texts are paths of files, which are given as one text: '{','.join(paths)}'")
    if given is None or given.kind != "source":
        return
    name = given.value
    # Otherwise it may be a dataset of the Hub, which needs a network.
    local = os.path.lexists(os.path.expanduser(name)) or name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if local or os.path.splitext(name)[1].lower() in DATA_FORMATS or any(mark in name for mark in ",*?["):
        find_splits(name)


def _rows(entry: Mapping[str, Tensor]) -> list[Sample]:
    """The samples of a batch; a sample is its own."""
    size = batch_size_of(entry)
    if size is None:
        return [dict(entry)]
    return [{name: value[row] for name, value in entry.items()} for row in range(size)]


def _check_inputs(entry: Mapping[str, Tensor], model: Any, where: str) -> None:
    """Refuse inputs that the model's forward pass does not take, or not like that."""
    import inspect

    known = set(inspect.signature(model.forward).parameters)
    main = main_input(model)
    if "label" in entry and "label" not in known:
        raise UserError(f"{where} has 'label', and {type(model).__name__} calls it 'labels': name it so")
    unknown = next((name for name in entry if name not in known and name != "labels"), None)
    if unknown is not None:
        raise UserError(f"{where} has '{unknown}', which {type(model).__name__} does not read: its input is '{main}'")
    if main not in entry and "inputs_embeds" not in entry:
        raise UserError(f"{where} has {', '.join(entry)} and no '{main}', which {type(model).__name__} reads")
    if main in entry:
        _check_values(entry[main], main, model, where)


def _check_values(value: Tensor, name: str, model: Any, where: str) -> None:
    """Refuse pixels of another size, and tokens of another vocabulary."""
    reader, size = type(model).__name__, getattr(model.config, "image_size", None)
    if name == "pixel_values" and size is not None:
        expected = (getattr(model.config, "num_channels", 3), *size_pair(size))
        if value.dim() not in (3, 4) or tuple(value.shape[-3:]) != expected:
            given, sizes = tuple(value.shape), ", ".join(map(str, expected))
            raise UserError(f"{where}: '{name}' has the shape {given}, and {reader} reads [batch, {sizes}]")
    vocabulary = getattr(model.config, "vocab_size", None)
    if name != "input_ids" or not isinstance(vocabulary, int) or not value.numel():
        return
    if value.is_floating_point() or value.dtype == torch.bool:
        raise UserError(f"{where}: '{name}' holds {value.dtype}, and tokens are whole numbers: give a tokenizer's")
    if not 0 <= int(value.min()) <= int(value.max()) < vocabulary:
        raise UserError(
            f"{where}: '{name}' has tokens from {int(value.min())} to {int(value.max())}, and the vocabulary ends at "
            f"{vocabulary - 1}: give those of this model's own tokenizer"
        )
