"""Sources to splits, labels to class numbers, images to batches, and a line for everything that can be wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image
from tiny import CLASSES, save_images, save_vit

from compressor.data import source_splits as files
from compressor.data.batches import Batches
from compressor.data.readers.images import ImageReader
from compressor.data.sources import Split, open_split
from compressor.errors import UserError
from compressor.models.load import load_teacher
from compressor.recipe import DataOptions

ID2LABEL = dict(enumerate(CLASSES))


def opened(source, role="eval", id2label=ID2LABEL, **options):
    return open_split(DataOptions(source=str(source), **options), role, id2label=id2label)


def refusal(source, role="eval", id2label=ID2LABEL, **options):
    """The one line that a source is refused with."""
    with pytest.raises(UserError) as caught:
        opened(source, role, id2label, **options)
    line = str(caught.value)
    assert line and "\n" not in line
    return line


def pixels_of(level):
    return Image.fromarray(np.full((16, 16, 3), level, np.uint8))


def save_parquet(path, count=10, *, image="image", label="label", labels=None, feature=None, **extra):
    """Images whose brightness is their row number, and labels that count up."""
    feature = feature or ClassLabel(names=list(CLASSES))
    labels = [index % 4 for index in range(count)] if labels is None else labels
    columns = {image: [pixels_of(index) for index in range(count)], label: labels, **extra}
    features = Features({image: datasets.Image(), label: feature})
    for name, values in extra.items():
        features[name] = Value("string" if isinstance(values[0], str) else "int64")
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=features).to_parquet(path)
    return path


def levels(split):
    """Which rows of `save_parquet` a split holds."""
    return [np.asarray(image)[0, 0, 0].item() for image in split.dataset[split.image]]


@pytest.fixture(autouse=True)
def _no_bars():
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def teacher(vit_a):
    return load_teacher(str(vit_a))


# Splits


def test_digits_have_two_splits():
    names = {index: str(index) for index in range(10)}
    train, test = opened("digits", "train", names), opened("digits", "eval", names)
    assert (len(train), len(test)) == (1300, 497)
    assert test.image == "image" and test.dataset[0]["image"].mode == "L"
    assert set(test.labels) == set(range(10))
    assert np.array_equal(opened("digits", "eval", names).labels, test.labels)


def test_folder_of_parquet_files_gives_each_role_its_split(tmp_path):
    save_parquet(tmp_path / "train-00000-of-00002.parquet", 6)
    save_parquet(tmp_path / "train-00001-of-00002.parquet", 5)
    save_parquet(tmp_path / "test.parquet", 4)
    assert len(opened(tmp_path, "train")) == 11
    assert len(opened(tmp_path, "eval")) == 4


@pytest.mark.parametrize("glob", [False, True])
def test_splits_are_found_in_subfolders_lists_and_globs(tmp_path, glob):
    save_parquet(tmp_path / "data" / "train" / "part.parquet", 6)
    save_parquet(tmp_path / "data" / "val" / "part.parquet", 4)
    assert len(opened(tmp_path, "eval")) == 4
    save_parquet(tmp_path / "flat" / "train.parquet", 5)
    save_parquet(tmp_path / "flat" / "dev.parquet", 3)
    flat = tmp_path / "flat"
    source = f"{flat}/*.parquet" if glob else f"{flat}/train.parquet, {flat}/dev.parquet"
    assert (len(opened(source, "train")), len(opened(source, "eval"))) == (5, 3)


def test_listed_files_are_all_used(tmp_path):
    save_parquet(tmp_path / "train.parquet", 5)
    save_parquet(tmp_path / "more.parquet", 5)
    source = f"{tmp_path}/train.parquet,{tmp_path}/more.parquet"
    assert len(opened(source, "train")) + len(opened(source, "eval")) == 10


def test_evaluation_prefers_test_then_validation_then_dev(tmp_path):
    for count, name in ((9, "train"), (3, "dev"), (4, "validation"), (5, "test")):
        save_parquet(tmp_path / f"{name}.parquet", count)
    assert len(opened(tmp_path)) == 5
    (tmp_path / "test.parquet").unlink()
    assert len(opened(tmp_path)) == 4
    (tmp_path / "validation.parquet").unlink()
    assert len(opened(tmp_path)) == 3


def test_evaluation_prefers_a_split_with_labels(tmp_path):
    save_parquet(tmp_path / "train.parquet", 6)
    save_parquet(tmp_path / "test.parquet", 5, labels=[-1] * 5, feature=Value("int64"))
    unlabelled = opened(tmp_path)
    assert len(unlabelled) == 5 and unlabelled.label is None and unlabelled.labels is None
    save_parquet(tmp_path / "val.parquet", 4)
    assert len(opened(tmp_path)) == 4


def test_one_split_is_held_out_of_for_evaluation(tmp_path):
    path = save_parquet(tmp_path / "train.parquet", 20)
    save_parquet(tmp_path / "test.parquet", 7)
    train, test = opened(path, "train"), opened(path, "eval")
    assert (len(train), len(test)) == (16, 4)
    assert sorted(levels(train) + levels(test)) == list(range(20))
    assert levels(test) == levels(opened(path, "eval"))
    assert levels(train) != sorted(levels(train)), "the first samples should be a fair draw"
    assert len(opened(tmp_path, "train")) == 20 and len(opened(tmp_path, "eval")) == 7
    same = {"eval_split": "train"}
    assert len(opened(tmp_path, "train", **same)) == 16 and len(opened(tmp_path, "eval", **same)) == 4


def test_labels_follow_their_images_into_the_holdout(tmp_path):
    path = save_parquet(tmp_path / "data.parquet", 20)
    for role in ("train", "eval"):
        split = opened(path, role)
        assert split.labels.tolist() == [level % 4 for level in levels(split)]


def test_take(tmp_path):
    path = save_parquet(tmp_path / "train.parquet", 10)
    save_parquet(tmp_path / "test.parquet", 2)
    split = opened(tmp_path, "train")
    assert levels(split.take(3)) == [0, 1, 2]
    drawn = levels(split.take(5, seed=1))
    assert drawn == levels(split.take(5, seed=1)) != levels(split.take(5, seed=2))
    assert len(set(drawn)) == 5
    assert len(split.take(99)) == len(split.take(99, seed=0)) == 10
    assert split.take(3).labels.tolist() == [0, 1, 2]
    assert path.exists()


def test_splits_that_cannot_be_told(tmp_path):
    save_parquet(tmp_path / "test.parquet", 4)
    save_parquet(tmp_path / "val.parquet", 4)
    assert "data.train_split" in refusal(tmp_path, "train") and "validation" in refusal(tmp_path, "train")
    line = refusal(tmp_path, eval_split="exam")
    assert "'exam'" in line and "test, validation" in line


# Images in folders


def test_image_folder_with_splits(image_folder):
    train, test = opened(image_folder, "train"), opened(image_folder)
    assert (len(train), len(test)) == (24, 12)
    for image, label in zip(test.dataset["image"], test.labels, strict=True):
        assert np.asarray(image).mean() // 60 == label, "labels are the model's, by name, not by alphabet"
    assert len(set(test.labels[:6])) > 1, "the first samples should not all be of one class"


def test_image_folder_without_splits(tmp_path):
    save_images(tmp_path, per_class=5)
    train, test = opened(tmp_path, "train"), opened(tmp_path)
    assert (len(train), len(test)) == (16, 4)
    assert not {i.filename for i in train.dataset["image"]} & {i.filename for i in test.dataset["image"]}


def test_image_folder_keeps_its_own_labels_without_a_model(image_folder):
    split = opened(image_folder, id2label=None)
    assert split.dataset.features["label"].names == sorted(CLASSES)


def test_unlabelled_images_serve_for_calibration(tmp_path):
    save_images(tmp_path, classes=("cat",))
    flat = tmp_path / "cat"
    assert opened(flat, "train").label is None and len(opened(flat, "train")) == 4
    assert opened(tmp_path, "train").label is None, "a lone folder is no class"


def test_a_class_may_be_called_like_a_split(tmp_path):
    save_images(tmp_path, classes=("bus", "train"), per_class=5)
    assert set(opened(tmp_path, "train", {0: "bus", 1: "train"}).labels) == {0, 1}


def test_image_names_do_not_make_splits(tmp_path):
    save_images(tmp_path, per_class=5)
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / "test_0.png")
    assert len(opened(tmp_path, "train")) == 16


def test_images_beside_class_folders(tmp_path):
    save_images(tmp_path, per_class=2)
    pixels_of(0).save(tmp_path / "stray.png")
    assert "stray.png" in refusal(tmp_path, "train")


# Tables that name images


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_tables_with_paths_of_images(tmp_path, suffix):
    save_images(tmp_path, per_class=2)
    rows = [{"file_name": f"{name}/{index}.png", "label": name} for name in CLASSES for index in range(2)]
    separator = "\t" if suffix == "tsv" else ","
    lines = [separator.join(("file_name", "label")), *(separator.join(row.values()) for row in rows)]
    if suffix == "jsonl":
        lines = [json.dumps(row) for row in rows]
    path = tmp_path / f"table.{suffix}"
    path.write_text("\n".join(lines))
    split = opened(path, "train")
    assert split.image == "file_name" and len(split) == 6
    for image, label in zip(split.dataset["file_name"], split.labels, strict=True):
        assert np.asarray(image).mean() // 60 == label


def test_a_folder_with_a_table_of_its_images(tmp_path):
    save_images(tmp_path / "train", classes=("files",), per_class=3)
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\nfiles/0.png,cat\nfiles/1.png,dog\n")
    assert opened(tmp_path, "train", train_split="train", eval_split="train").label == "label"


@pytest.mark.parametrize("kind", ["struct", "binary", "array"])
def test_image_columns_without_an_image_feature(tmp_path, kind):
    stored = []
    for level in range(4):
        path = tmp_path / "one.png"
        pixels_of(level).save(path)
        content = path.read_bytes()
        array = np.asarray(pixels_of(level)).tolist()
        stored.append({"struct": {"bytes": content, "path": None}, "binary": content, "array": array}[kind])
    values = pa.array(stored, pa.list_(pa.list_(pa.list_(pa.uint8()))) if kind == "array" else None)
    pq.write_table(pa.table({"img": values, "label": [0, 1, 2, 3]}), tmp_path / "train.parquet")
    save_parquet(tmp_path / "test.parquet")
    split = opened(tmp_path, "train")
    assert split.image == "img" and levels(split) == [0, 1, 2, 3]


def test_paths_with_special_characters(tmp_path):
    path = save_parquet(tmp_path / "a [b], c*" / "train.parquet", 10)
    assert len(opened(path, "train")) == 8
    assert len(opened(path.parent, "train")) == 8


# Text


def test_text_with_and_without_a_header(tmp_path):
    names = {0: "negative", 1: "positive"}
    (tmp_path / "train.tsv").write_text('a "good film\t1\nNone\t0\nthe plot\t1\n')
    (tmp_path / "test.tsv").write_text("sentence\tlabel\nbad film\tNEGATIVE\n")
    train, test = opened(tmp_path, "train", names), opened(tmp_path, "eval", names)
    assert train.text == ("text",) and train.image is None and train.labels.tolist() == [1, 0, 1]
    assert train.dataset["text"][:2] == ['a "good film', "None"]
    assert test.text == ("sentence",) and test.labels.tolist() == [0]


def test_text_pairs_and_texts_that_cannot_be_told(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"premise": "a", "hypothesis": "b", "label": 1}\n' * 2)
    assert opened(tmp_path / "a.jsonl", "train").text == ("premise", "hypothesis")
    (tmp_path / "b.jsonl").write_text('{"left": "a", "right": "b", "label": 1}\n' * 2)
    line = refusal(tmp_path / "b.jsonl", "train")
    assert "'left' and 'right'" in line and "label" in line


# Columns


def test_columns_are_found_by_feature_and_by_option(tmp_path):
    path = save_parquet(tmp_path / "a.parquet", image="scan", label="species", note=["x"] * 10)
    split = opened(path)
    assert (split.image, split.label) == ("scan", "species")
    path = save_parquet(tmp_path / "b.parquet", image="scan", kind=[3] * 10)
    assert set(opened(path, label_column="kind").labels) == {3}


def test_of_several_class_columns_the_one_that_fits_the_model(tmp_path):
    features = Features(
        {"image": datasets.Image(), "coarse": ClassLabel(names=["x", "y"]), "fine": ClassLabel(names=list(CLASSES))}
    )
    columns = {"image": [pixels_of(i) for i in range(5)], "coarse": [0] * 5, "fine": [0, 1, 2, 3, 0]}
    path = tmp_path / "a.parquet"
    Dataset.from_dict(columns, features=features).to_parquet(path)
    assert opened(path).label == "fine"
    line = refusal(path, id2label=None)
    assert "'coarse' and 'fine'" in line and "image, coarse, fine" in line


def test_wrong_columns_are_refused_with_the_list(tmp_path):
    path = save_parquet(tmp_path / "a.parquet")
    assert "'photo'" in refusal(path, image_column="photo") and "image, label" in refusal(path, image_column="photo")
    assert "'kind'" in refusal(path, label_column="kind")
    assert "holds no images" in refusal(path, image_column="label")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n3,4\n")
    line = refusal(tmp_path / "b.csv")
    assert "neither an image nor a text column" in line and "a, b" in line


def test_several_image_columns_are_refused(tmp_path):
    features = Features({"left": datasets.Image(), "right": datasets.Image()})
    images = [pixels_of(i) for i in range(3)]
    Dataset.from_dict({"left": images, "right": images}, features=features).to_parquet(tmp_path / "a.parquet")
    assert "'left' and 'right'" in refusal(tmp_path / "a.parquet")
    assert opened(tmp_path / "a.parquet", image_column="right").image == "right"


# Labels


@pytest.mark.parametrize(
    ("labels", "feature", "expected"),
    [
        ([3, 0, 1, 2], Value("int64"), [3, 0, 1, 2]),
        ([3.0, 0.0, 1.0, 2.0], Value("float64"), [3, 0, 1, 2]),
        (["bee", "cat", "dog", "ant"], Value("string"), [3, 0, 1, 2]),
        (["Bee", "CAT", "dog", "ant"], Value("string"), [3, 0, 1, 2]),
        ([1, 2, 3, 0], ClassLabel(names=["ant", "bee", "cat", "dog"]), [3, 0, 1, 2]),
        ([3, 0, 1, 2], ClassLabel(names=list(CLASSES)), [3, 0, 1, 2]),
        ([3, 0, 1, 2], ClassLabel(names=["0", "1", "2", "3"]), [3, 0, 1, 2]),
    ],
)
def test_labels_become_the_models_class_numbers(tmp_path, labels, feature, expected):
    save_parquet(tmp_path / "test.parquet", 4, labels=labels, feature=feature)
    save_parquet(tmp_path / "train.parquet", 4)
    split = opened(tmp_path)
    assert split.labels.tolist() == expected and split.labels.dtype == np.int64
    assert levels(split) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "feature", "expected"),
    [
        ([1, 0, 1, 0], ClassLabel(names=["ant", "bee"]), [1, 0, 1, 0]),
        (["1", "0", "1", "0"], Value("string"), [1, 0, 1, 0]),
        ([1, 0, 1, 0], ClassLabel(names=["1", "0"]), [0, 1, 0, 1]),
        (["LABEL_1", "LABEL_0", "LABEL_0", "LABEL_0"], Value("string"), [1, 0, 0, 0]),
    ],
)
def test_a_model_without_label_names_is_addressed_by_number(tmp_path, labels, feature, expected):
    save_parquet(tmp_path / "test.parquet", 4, labels=labels, feature=feature)
    save_parquet(tmp_path / "train.parquet", 4)
    assert opened(tmp_path, id2label={0: "LABEL_0", 1: "LABEL_1"}).labels.tolist() == expected


def test_folders_called_by_numbers_are_numbers(tmp_path):
    names = tuple(str(number) for number in range(11))
    save_images(tmp_path, classes=names, per_class=2, size=4)
    split = opened(tmp_path, "train", {index: f"LABEL_{index}" for index in range(11)})
    for image, label in zip(split.dataset["image"], split.labels, strict=True):
        assert image.filename.split("/")[-2] == str(label)


def test_names_are_numbered_where_there_is_no_model(tmp_path):
    path = save_parquet(tmp_path / "a.parquet", 4, labels=["b", "a", "b", "c"], feature=Value("string"))
    split = opened(path, "train", None)
    assert split.labels.tolist() == [{0: 1, 1: 0, 2: 1, 3: 2}[level] for level in levels(split)]


@pytest.mark.parametrize(
    ("labels", "feature", "words"),
    [
        ([0, 1, 7, 2], Value("int64"), ["row 2", "label 7", "0 to 3"]),
        ([0, -1, 1, 2], Value("int64"), ["row 1", "label -1", "out of range"]),
        ([0, 1.5, 1, 2], Value("float64"), ["row 1", "1.5"]),
        (["cat", "dog", "cow", "ant"], Value("string"), ["row 2", "'cow'", "cat, dog, ant, bee"]),
        ([0, 1, 2, 3], ClassLabel(names=["cat", "dog", "ant", "cow"]), ["row 3", "'cow'"]),
        ([0, 1, 2, 3], ClassLabel(names=["a", "b", "c", "d"]), ["row 0", "'a'"]),
        ([0, None, 2, 3], Value("int64"), ["1 of 4 labels", "row 1"]),
    ],
)
def test_labels_that_are_not_the_models(tmp_path, labels, feature, words):
    save_parquet(tmp_path / "test.parquet", 4, labels=labels, feature=feature)
    save_parquet(tmp_path / "train.parquet", 4)
    line = refusal(tmp_path)
    assert all(word in line for word in words), line


def test_calibration_needs_no_labels(tmp_path):
    save_parquet(tmp_path / "train.parquet", 4, labels=[0, None, 2, 3])
    save_parquet(tmp_path / "test.parquet", 4)
    assert opened(tmp_path, "train").label is None


# What cannot be read


def test_paths_that_are_not_there(tmp_path):
    assert "no data at" in refusal(tmp_path / "missing")
    assert "no data at" in refusal("missing.parquet")
    assert "no file matches" in refusal(f"{tmp_path}/*.parquet")
    with pytest.raises(UserError, match=r"set data\.source"):
        open_split(DataOptions(), "train")


def test_names_that_are_nowhere():
    line = refusal("no-such-dataset")
    assert "digits" in line and "Hub" in line and "no such file" in line
    assert "no valid Hub id" in refusal("no such dataset")


def test_a_hub_dataset_is_read_by_split(monkeypatch, tmp_path):
    train, test = save_parquet(tmp_path / "train.parquet", 6), save_parquet(tmp_path / "test.parquet", 3)
    data = {name: Dataset.from_parquet(str(path)) for name, path in (("train", train), ("test", test))}
    monkeypatch.setattr(files.HfApi, "dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: list(data))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: data[split])
    assert len(opened("someone/images", "train")) == 6
    assert len(opened("someone/images")) == 3
    monkeypatch.setattr(files.HfApi, "dataset_info", lambda self, name, timeout: 1 / 0)
    assert "not reachable" in refusal("someone/images")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.parquet", b"PAR1 not really", ["a.parquet", "cannot read"]),
        ("a.parquet", b"", ["a.parquet", "empty"]),
        ("a.csv", b"", ["a.csv", "empty"]),
        ("a.csv", b"image,label\n", ["a.csv", "empty"]),
        ("a.csv", b'a,b\n1,"2\n', ["a.csv", "cannot read"]),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', ["a.jsonl", "cannot read"]),
        ("a.tsv", b"\xff\xfe\xfa\t1\n", ["a.tsv", "cannot read"]),
        ("a.xlsx", b"x", ["a.xlsx", ".parquet", ".csv"]),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, words, capfd):
    (tmp_path / name).write_bytes(content)
    line = refusal(tmp_path / name)
    assert all(word in line for word in words), line
    assert capfd.readouterr() == ("", "")


def test_folders_that_cannot_be_read(tmp_path):
    assert "neither images, sounds nor" in refusal(tmp_path)
    save_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    line = refusal(tmp_path)
    assert ".csv and .parquet" in line


def test_empty_and_too_small_splits(tmp_path):
    features = Features({"image": datasets.Image(), "label": Value("int64")})
    Dataset.from_dict({"image": [], "label": []}, features=features).to_parquet(tmp_path / "a.parquet")
    assert "empty" in refusal(tmp_path / "a.parquet")
    assert "one sample" in refusal(save_parquet(tmp_path / "b.parquet", 1))


def test_reading_is_silent(tmp_path, capfd):
    datasets.enable_progress_bars()
    opened(save_parquet(tmp_path / "a.parquet"))
    assert not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    out = capfd.readouterr()
    assert "Generating" not in out.err and out.out == ""


# Batches


def test_batches_are_what_the_teachers_processor_makes(teacher, tmp_path):
    path = save_parquet(tmp_path / "test.parquet", 10)
    save_parquet(tmp_path / "train.parquet", 2)
    split = opened(tmp_path)
    batches = Batches(split, teacher.processor, 4, labels=True, spec=teacher.spec)
    assert (len(batches), batches.num_samples) == (3, 10)
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 2]
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    expected = teacher.processor(images=[pixels_of(level) for level in range(10)], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, expected) and pixels.dtype == torch.float32
    labels = torch.cat([batch["labels"] for batch in batches])
    assert torch.equal(labels, batches.labels) and labels.dtype == torch.int64
    assert path.exists()


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_batches_can_be_read_again_and_in_part(teacher, image_folder, monkeypatch, cache_bytes):
    batches = Batches(opened(image_folder), teacher.processor, 5, labels=False, cache_bytes=cache_bytes)
    decoded = []
    decode = ImageReader._decode
    monkeypatch.setattr(ImageReader, "_decode", lambda *args: decoded.append(args[2]) or decode(*args))
    first = next(iter(batches))
    first["extra"] = torch.zeros(1)
    passes = [[batch["pixel_values"] for batch in batches] for _ in range(3)]
    assert all(torch.equal(a, b) for other in passes[1:] for a, b in zip(passes[0], other, strict=True))
    assert set(next(iter(batches))) == {"pixel_values"}
    assert len(decoded) == (12 if cache_bytes else 5 + 3 * 12 + 5)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_become_what_the_model_reads(tmp_path, mode):
    for channels in (1, 3):
        teacher = load_teacher(
            str(save_vit(tmp_path / str(channels), num_channels=channels, mean=(0.5,) * channels, seed=channels))
        )
        root = tmp_path / f"images{channels}"
        root.mkdir()
        for index in range(4):
            suffix = "jpg" if mode == "CMYK" else "png"
            pixels_of(60 * index).convert(mode).save(root / f"{index}.{suffix}")
        for spec in (None, teacher.spec):
            batches = Batches(opened(root, "train"), teacher.processor, 2, labels=False, spec=spec)
            assert next(iter(batches))["pixel_values"].shape[1:] == (channels, 16, 16)


def test_text_batches(bert, tmp_path):
    teacher = load_teacher(str(bert))
    (tmp_path / "train.tsv").write_text("good film\t1\nthe bad bad plot\t0\n" + "bad " * 50 + "\t0\ngood\t1\n")
    (tmp_path / "test.tsv").write_text("bad\t0\n")
    batches = Batches(opened(tmp_path, "train", teacher.config.id2label), teacher.processor, 4, labels=True)
    (batch,) = batches
    assert batch["input_ids"].shape == (4, 8) and batch["attention_mask"].dtype == torch.int64
    assert teacher.model(**batch).loss.isfinite()
    assert torch.equal(next(iter(batches))["input_ids"], batch["input_ids"])


def test_a_broken_image_is_named(teacher, tmp_path):
    save_images(tmp_path, per_class=3)
    (tmp_path / "dog" / "1.png").write_bytes(b"not a picture")
    batches = Batches(opened(tmp_path, "train"), teacher.processor, 4, labels=False)
    held = Batches(opened(tmp_path), teacher.processor, 4, labels=False)
    with pytest.raises(UserError, match=r"sample \d+ \(.*dog/1.png\)") as caught:
        list(batches), list(held)
    assert "\n" not in str(caught.value)


def test_truncated_missing_and_null_images_are_named(teacher, tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(good)
    (tmp_path / "short.png").write_bytes(good.read_bytes()[:4000])
    for name in ("short.png", "missing.png", ""):
        (tmp_path / "table.csv").write_text(f"image,label\ngood.png,0\n{name},1\ngood.png,2\n")
        splits = [opened(tmp_path / "table.csv", role) for role in ("train", "eval")]
        with pytest.raises(UserError, match="cannot read the image of sample") as caught:
            [list(Batches(split, teacher.processor, 2, labels=True)) for split in splits]
        assert name in str(caught.value)


def test_images_that_do_not_fit_the_model(teacher, vit_a, tmp_path):
    processor = load_teacher(str(vit_a)).processor
    processor.do_resize = False
    for index, size in enumerate((16, 16, 20)):
        Image.new("RGB", (size, size)).save(tmp_path / f"{index}.png")
    features = Features({"image": datasets.Image()})
    places = [str(tmp_path / f"{index}.png") for index in range(3)]
    split = Split(Dataset.from_dict({"image": places}, features=features), "image", None, (), "three images")
    with pytest.raises(UserError, match="refuses images"):
        list(Batches(split, processor, 3, labels=False))
    with pytest.raises(UserError, match=r"3×20×20.*3×16×16"):
        list(Batches(split, processor, 1, labels=False, spec=teacher.spec))


def test_batches_that_cannot_be_made(teacher, bert, image_folder, tmp_path):
    split = opened(image_folder)
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        Batches(split, None, 4, labels=False)
    with pytest.raises(UserError, match="holds images, but the teacher reads text"):
        Batches(split, load_teacher(str(bert)).processor, 4, labels=False)
    (tmp_path / "a.csv").write_text("text\ngood\nbad\n")
    text = opened(tmp_path / "a.csv", "train")
    with pytest.raises(UserError, match="holds text, but the teacher reads images"):
        Batches(text, teacher.processor, 4, labels=False)
    with pytest.raises(UserError, match="has no labels"):
        Batches(text, load_teacher(str(bert)).processor, 4, labels=True)
    assert Batches(text, load_teacher(str(bert)).processor, 4, labels=False).labels is None


def test_a_thousand_small_images_take_less_than_half_a_second(teacher, tmp_path):
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(256)]
    features = Features({"image": datasets.Image(), "label": Value("int64")})
    data = {"image": images * 4, "label": [0] * 1024}
    Dataset.from_dict(data, features=features).to_parquet(tmp_path / "test.parquet")
    save_parquet(tmp_path / "train.parquet", 2)
    processor = load_teacher(str(save_vit(tmp_path / "vit", image_size=32))).processor
    batches = Batches(opened(tmp_path), processor, 128, labels=True)
    start = time.perf_counter()
    assert sum(len(batch["labels"]) for batch in batches) == 1024
    first = time.perf_counter() - start
    start = time.perf_counter()
    list(batches)
    # Four times the target, so that a busy machine does not fail the test.
    assert first < 2.0 and time.perf_counter() - start < 0.1 * first


def test_images_are_decoded_batch_by_batch(teacher, image_folder, monkeypatch):
    largest = []
    real = teacher.processor

    class Spy:
        image_mean = real.image_mean

        def __call__(self, images, return_tensors):
            largest.append(len(images))
            return real(images=images, return_tensors=return_tensors)

    assert [len(batch["pixel_values"]) for batch in Batches(opened(image_folder), Spy(), 5, labels=False)] == [5, 5, 2]
    assert max(largest) == 5


def test_a_table_of_nothing_but_image_paths_is_read(image_folder, tmp_path):
    images = sorted(Path(image_folder).rglob("*.png"))[:4]
    table = tmp_path / "paths.csv"
    table.write_text("image\n" + "\n".join(str(path) for path in images) + "\n")
    split = open_split(DataOptions(source=str(table)), "train")
    assert split.image == "image" and split.label is None and len(split) >= 3
