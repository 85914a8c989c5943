"""Data may be given in every usual way; the same samples give the same inputs and the same scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import CLASSES
from tiny_text import save_text_model
from transformers import AutoModelForSequenceClassification

import compressor
from compressor.api.kinds import kind_of_data
from compressor.api.models import load_models
from compressor.api.samples import DataReader
from compressor.recipe import build_recipe

#: {how data is given: samples that it holds of twelve}.
GIVEN = {
    "path": 12, "Path": 12, "rows": 12, "dataset": 12, "splits": 12, "stream": 12, "batches": 12, "outputs": 12,
    "loader": 12, "generator": 12, "samples": 12, "torch dataset": 12, "iterable dataset": 12,
}  # fmt: skip


def images_of(folder):
    """(images, class numbers) of a folder by class."""
    from PIL import Image

    files = [(path, CLASSES.index(name)) for name in CLASSES for path in sorted(Path(folder, name).glob("*.png"))]
    return [Image.open(path) for path, _ in files], [label for _, label in files]


def pixels_of(images, labels, processor):
    inputs = processor(images=images, return_tensors="pt")["pixel_values"]
    return {"pixel_values": inputs, "labels": torch.tensor(labels)}


@pytest.fixture(scope="module")
def processor(vit_a):
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(vit_a)


@pytest.fixture(scope="module")
def given(image_folder, processor):
    """A function that gives the twelve test images in one of the ways of `GIVEN`."""
    from datasets import Dataset, DatasetDict
    from torch.utils.data import DataLoader, IterableDataset

    images, labels = images_of(image_folder / "test")
    batch = pixels_of(images, labels, processor)
    samples = [{name: value[row] for name, value in batch.items()} for row in range(12)]
    parts = [{name: value[start : start + 5] for name, value in batch.items()} for start in range(0, 12, 5)]
    rows = [{"image": image, "label": CLASSES[label]} for image, label in zip(images, labels, strict=True)]

    class Map(torch.utils.data.Dataset):
        def __len__(self):
            return len(samples)

        def __getitem__(self, index):
            return samples[index]

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(samples)

    ways = {
        "path": lambda: str(image_folder),
        "Path": lambda: image_folder,
        "rows": lambda: rows,
        "dataset": lambda: Dataset.from_list(rows),
        "splits": lambda: DatasetDict({"train": Dataset.from_list(rows[:3]), "test": Dataset.from_list(rows)}),
        "stream": lambda: Dataset.from_list(rows).to_iterable_dataset(),
        "batches": lambda: parts,
        "outputs": lambda: [{**processor(images=images, return_tensors="pt"), "labels": torch.tensor(labels)}],
        "loader": lambda: DataLoader(Map(), batch_size=5),
        "generator": lambda: (part for part in parts),
        "samples": lambda: samples,
        "torch dataset": Map,
        "iterable dataset": Stream,
    }
    return lambda way: ways[way]()


@pytest.fixture(scope="module")
def model(vit_a):
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification.from_pretrained(vit_a)


@pytest.mark.parametrize("way", GIVEN)
def test_models_are_measured_on_data_of_every_kind(way, given, vit_a, model, processor):
    model.train()
    scores = compressor.evaluate([vit_a, model], given(way), processor=processor)
    assert model.training
    first, second = scores
    expected = compressor.evaluate(str(vit_a), given("path"))[0]
    assert (first.accuracy, first.samples) == (second.accuracy, second.samples) == (expected.accuracy, GIVEN[way])
    assert first.fingerprint == second.fingerprint == expected.fingerprint


def reader(samples, models, **options):
    named = load_models(models)
    return DataReader(kind_of_data(samples, "test"), named, build_recipe({"teachers": ["a"], **options}), "test")


@pytest.mark.parametrize("way", ["images", "paths", *sorted(GIVEN.keys() - {"path", "Path", "splits"})])
def test_calibration_takes_all_of_it_without_labels(way, given, vit_a, image_folder):
    images, _ = images_of(image_folder / "test")
    paths = [str(path) for path in sorted((image_folder / "test").rglob("*.png"))]
    data = {"images": images, "paths": paths}.get(way) or given(way)
    batches = reader(data, [str(vit_a)]).calibration()
    assert all(batch.keys() == {"pixel_values"} for batch in batches)
    found = torch.cat([batch["pixel_values"] for batch in batches]).flatten(1)
    expected = torch.cat([part["pixel_values"] for part in given("batches")]).flatten(1)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))


def test_only_so_many_samples_are_read_of_an_endless_iterator(vit_a):
    def endless():
        while True:
            yield {"pixel_values": torch.zeros(4, 3, 16, 16)}

    assert len(kind_of_data(endless(), "test", 10).value) == 3


def test_texts_go_through_the_tokenizer(tmp_path):
    texts = ["the film is good", "bad plot", "a very dull scene .", "fine"]
    for kind in ("classifier", "decoder"):
        save_text_model(tmp_path / kind, kind)
    (batch,) = reader(texts, [str(tmp_path / "classifier")]).calibration()
    assert sorted(batch["attention_mask"].sum(1).tolist()) == [3, 4, 6, 7]
    blocks = reader(texts * 8, [str(tmp_path / "decoder")], data={"max_length": 8}).calibration()
    assert blocks[0]["input_ids"].shape[1] == 8
    scores = compressor.evaluate(tmp_path / "decoder", texts * 8, max_length=8)
    assert scores[0].perplexity > 1


def test_a_tokenised_dataset_is_read_as_model_inputs(tmp_path):
    from datasets import Dataset, DatasetDict
    from tiny_text import tokenizer

    save_text_model(tmp_path / "classifier", "classifier")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    texts, labels = ["the film is good", "bad plot", "a very dull scene .", "fine"] * 4, [1, 0, 0, 1] * 4
    raw = Dataset.from_dict({"text": texts, "label": labels})
    ready = raw.map(lambda row: tokenizer()(row["text"]))
    parts = DatasetDict({"train": ready.select([0]), "validation": ready})
    expected = compressor.evaluate(tmp_path / "classifier", raw)[0]
    rows, stream = ready.remove_columns("text").to_list(), ready.to_iterable_dataset()
    for data in (ready, ready.with_format("torch"), rows, parts, stream):
        found = compressor.evaluate(model, data)[0]
        assert (found.accuracy, found.f1, found.samples) == (expected.accuracy, expected.f1, 16)
    assert len(reader(parts, [model]).training()) == 1
    assert reader(ready, [model]).calibration()[0]["input_ids"].shape == (16, 7)


def test_paths_of_tables_are_no_texts(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        Path(name).write_text("text\na film\n")
    with pytest.raises(compressor.UserError, match=r"given as one text: 'a\.csv,b\.csv'"):
        compressor.fuse(str(bert), 0.5, ["a.csv", "b.csv"])


def test_training_reads_samples_one_by_one(given, vit_a):
    for way in ("batches", "samples", "torch dataset", "dataset", "path"):
        train = reader(given(way), [str(vit_a)]).training()
        assert train[0]["pixel_values"].shape == (3, 16, 16)
        assert len(train) == (24 if way == "path" else 12)


def test_data_with_the_wrong_reader_is_refused(vit_a, bert, image_folder):
    images, _ = images_of(image_folder / "test")
    with pytest.raises(compressor.UserError, match="holds images, but the teacher reads text"):
        compressor.fuse(str(bert), 0.5, images)
    with pytest.raises(compressor.UserError, match="holds text, but the teacher reads images"):
        compressor.fuse(str(vit_a), 0.5, ["a film"] * 4)
    with pytest.raises(compressor.UserError, match=r"has tokens from 0 to 999, and the vocabulary ends at 6"):
        compressor.fuse(str(bert), 0.5, [{"input_ids": torch.tensor([[0, 999]])}])
