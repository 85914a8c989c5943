"""Tables as people have them: compressed, in JSON of any shape, saved to disk, in nested folders."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os

import datasets
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image
from tiny import CLASSES

from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.models.tasks.table import TASKS
from compressor.recipe import DataOptions

ID2LABEL = {0: "negative", 1: "positive"}
#: Words, a comma, quotes, and a line separator that is none of the file's.
TEXTS = ["good film", 'a "bad", plot', "the\u2028film", "good", "bad film", "the plot"]
LABELS = ["positive", "negative", "negative", "positive", "negative", "positive"]
RECORDS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.fixture(autouse=True)
def _no_bars():
    datasets.disable_progress_bars()


def opened(source, role="train", id2label=ID2LABEL, **options):
    return open_split(DataOptions(source=str(source), **options), role, id2label=id2label)


def rows(source, **options):
    """All (text, label) of a source of one split."""
    splits = [opened(source, role, **options) for role in ("train", "eval")]
    return sorted(
        pair for split in splits for pair in zip(split.dataset[split.text[0]][:], split.labels.tolist(), strict=True)
    )


EXPECTED = sorted(zip(TEXTS, (int(label == "positive") for label in LABELS), strict=True))


def refusal(source, **options):
    with pytest.raises(UserError) as caught:
        opened(source, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def text_of(suffix):
    """The rows as a file of this suffix."""
    frame = pd.DataFrame(RECORDS)
    if suffix in ("jsonl", "ndjson", "json"):
        return "\n".join(json.dumps(record) for record in RECORDS)
    if suffix == "tsv":
        return "".join(f"{text}\t{label}\n" for text, label in zip(("text", *TEXTS), ("label", *LABELS), strict=True))
    return frame.to_csv(index=False)


# Compressed files


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "ndjson", "json"])
def test_compressed_tables(tmp_path, suffix, packer):
    path = tmp_path / f"Table.{suffix.upper()}.{packer}"
    path.write_bytes(PACKERS[packer](text_of(suffix).encode()))
    assert rows(path) == EXPECTED
    assert rows(tmp_path) == EXPECTED


def test_a_compressed_table_without_header(tmp_path):
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"a good film\t1\nthe bad plot\t0\ngood\t1\n"))
    assert rows(tmp_path / "a.tsv.gz") == [("a good film", 1), ("good", 1), ("the bad plot", 0)]


def test_compressed_text(tmp_path):
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress("\n".join(TEXTS).encode()))
    (tmp_path / "test.txt").write_text("good\nbad\n")
    split = open_split(DataOptions(source=str(tmp_path)), "train", task=TASKS["causal-lm"])
    assert split.lines and "".join(split.dataset["text"][:]) == "\n".join(TEXTS)


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    """Unpacked copies of `datasets` are found by the path alone."""
    path = tmp_path / "a.csv.gz"
    for word in ("good", "bad"):
        path.write_bytes(gzip.compress(f"text,label\n{word} film,positive\nplot,negative\n".encode()))
        assert {text for text, _ in rows(path)} == {f"{word} film", "plot"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv.gz", b"text,label\ngood,positive\n", "cannot read"),
        ("a.csv.gz", gzip.compress(b"text,label\n" + b"good film,positive\n" * 99)[:-30], "cannot read"),
        ("a.csv.xz", lzma.compress(b"text,label\ngood,positive\n" * 99)[:-9], "cannot read"),
        ("a.jsonl.bz2", b"BZh9 not really", "cannot read"),
        ("a.csv.gz", gzip.compress(b""), "is empty"),
        ("a.csv.gz", gzip.compress(gzip.compress(b"text,label\ngood,positive\n")), "is compressed (gzip)"),
        ("a.parquet.gz", gzip.compress(b"PAR1"), "known formats are .parquet"),
        ("a.csv.zip", b"PK\x03\x04", "known formats are .parquet"),
        ("a.gz", gzip.compress(b"text"), "known formats are .parquet"),
    ],
    ids=["not", "cut gz", "cut xz", "not bz2", "empty", "twice", "parquet", "zip", "no format"],
)
def test_compressed_files_that_cannot_be_read(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    line = refusal(tmp_path / name)
    assert said in line and name in line, line


def test_small_files_that_unpack_to_much_are_refused(tmp_path, monkeypatch):
    from compressor.data.files import table_checks

    monkeypatch.setattr(table_checks, "UNPACKED_BYTES", 1 << 17)
    body = b"text,label\n" + b"good film,positive\n" * 10_000
    for packer, pack in PACKERS.items():
        path = tmp_path / f"a.csv.{packer}"
        path.write_bytes(pack(body))
        assert path.stat().st_size < 1 << 11
        assert "unpacks to more than 128.0 KiB" in refusal(path)


# JSON


@pytest.mark.parametrize(
    "value",
    [
        RECORDS,
        {"data": RECORDS},
        {"version": "1.0", "rows": RECORDS},
        {"text": TEXTS, "label": LABELS},
        json.loads(pd.DataFrame(RECORDS).to_json()),
    ],
    ids=["records", "records in an object", "records beside a version", "columns", "columns of pandas"],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_of_one_value(tmp_path, value, indent):
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent, ensure_ascii=False))
    assert rows(tmp_path / "a.json") == EXPECTED
    assert rows(tmp_path) == EXPECTED


def test_json_of_a_value_in_each_line(tmp_path):
    lines = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
    (tmp_path / "a.json").write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n")
    assert rows(tmp_path / "a.json") == EXPECTED


def test_json_of_texts_alone(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(TEXTS))
    split = open_split(DataOptions(source=str(tmp_path / "a.json")), "train", task=TASKS["masked-lm"])
    assert split.text == ("text",)


def test_json_rows_may_lack_a_column(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "good"}, *RECORDS]))
    split = opened(tmp_path / "a.json", role="train", train_split="all", eval_split="all")
    assert split.label is None, "for training, partly labelled data is unlabelled"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2, 3]", "is no table"),
        ("17", "is no table"),
        ('[{"a": 1}, 2]', "is no table"),
        ("[]", "is empty"),
        ("", "is empty"),
        ('{"text": ', "cannot read"),
        ('[{"text": 1}, {"text": "a"}, {"text": [2]}]', "cannot read"),
        ('[{"text": 1' + "0" * 40 + "}]", "cannot read"),
        ("[" * 9000 + "]" * 9000, "nested deeper"),
        (json.dumps({f"k{index}": [1] for index in range(10_001)}), "10001 columns"),
        (b"\xff\xfe[", "cannot read"),
    ],
)
def test_json_that_is_no_table(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refusal(path)
    assert said in line and "a.json" in line, line


def test_large_json_is_refused(tmp_path, monkeypatch):
    from compressor.data.files import table_checks

    monkeypatch.setattr(table_checks, "TEXT_BYTES", 1 << 10)
    (tmp_path / "a.json").write_text(json.dumps(RECORDS * 99))
    assert "write it as .jsonl" in refusal(tmp_path / "a.json")


def test_json_next_to_other_data_is_a_note(tmp_path):
    Dataset.from_list(RECORDS).to_parquet(tmp_path / "data.parquet")
    (tmp_path / "about.json").write_text('{"license": "mit"}')
    assert rows(tmp_path) == EXPECTED
    (tmp_path / "pictures").mkdir()
    for index in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{index}.png")
    (tmp_path / "pictures" / "about.json").write_text('{"license": "mit"}')
    assert opened(tmp_path / "pictures").image == "image"


def test_json_of_a_split_is_no_note(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps(RECORDS[: 4 if name == "test" else 6]))
    assert (len(opened(tmp_path)), len(opened(tmp_path, "eval"))) == (6, 4)
    (tmp_path / "validation.csv").write_text(text_of("csv"))
    assert len(opened(tmp_path, "eval", eval_split="validation")) == 6, "each split has a format"
    (tmp_path / "test.json").rename(tmp_path / "train.csv")
    assert "mixes .csv and .json files" in refusal(tmp_path)


# Saved by datasets


def saved():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    return Dataset.from_list(RECORDS, features=features)


def test_a_saved_data_set(tmp_path):
    saved().save_to_disk(tmp_path / "d")
    assert rows(tmp_path / "d") == EXPECTED
    # In several files, with rows left out, and with a format of its own.
    saved().select([5, 4, 3, 2, 1, 0]).with_format("numpy").save_to_disk(tmp_path / "e", num_shards=2)
    assert rows(tmp_path / "e") == EXPECTED


@pytest.mark.parametrize("kind", ["dict", "folders"])
def test_saved_splits(tmp_path, kind):
    splits = {"train": saved(), "validation": saved().select(range(2)), "test": saved().select(range(3))}
    if kind == "dict":
        DatasetDict(splits).save_to_disk(tmp_path / "d")
    else:
        for name, split in splits.items():
            split.save_to_disk(tmp_path / "d" / name)
    assert (len(opened(tmp_path / "d")), len(opened(tmp_path / "d", "eval"))) == (6, 3)
    assert len(opened(tmp_path / "d", "eval", eval_split="validation")) == 2


def test_saved_images(tmp_path):
    images = [Image.new("RGB", (8, 8), (40 * index,) * 3) for index in range(4)]
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=list(CLASSES))})
    Dataset.from_dict({"image": images, "label": [0, 1, 2, 3]}, features=features).save_to_disk(tmp_path / "d")
    split = opened(tmp_path / "d", id2label=dict(enumerate(reversed(CLASSES))))
    for image, label in zip(split.dataset["image"], split.labels, strict=True):
        assert image.getpixel((0, 0))[0] == 40 * (3 - label)


@pytest.mark.parametrize("damage", ["no file", "cut", "state", "info", "list", "pipe", "link"])
def test_damaged_saved_data_sets_are_named(tmp_path, damage):
    DatasetDict({"train": saved(), "test": saved()}).save_to_disk(tmp_path / "d")
    arrow = tmp_path / "d" / "train" / "data-00000-of-00001.arrow"
    if damage in ("no file", "pipe", "link"):
        arrow.unlink()
    if damage == "cut":
        arrow.write_bytes(arrow.read_bytes()[:100])
    elif damage == "state":
        (tmp_path / "d" / "train" / "state.json").write_text("{}")
    elif damage == "info":
        (tmp_path / "d" / "train" / "dataset_info.json").write_text('{"features": 1')
    elif damage == "list":
        (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["../d/train"]}')
    elif damage == "pipe":
        os.mkfifo(arrow)
    elif damage == "link":
        arrow.symlink_to("gone")
    assert str(tmp_path / "d") in refusal(tmp_path / "d")


def test_a_saved_data_set_without_rows(tmp_path):
    saved().select([]).save_to_disk(tmp_path / "d")
    assert refusal(tmp_path / "d") == f"{tmp_path / 'd'} is empty"


def test_an_arrow_file(tmp_path):
    saved().save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "data-00000-of-00001.arrow").rename(tmp_path / "a.arrow")
    assert rows(tmp_path / "a.arrow") == EXPECTED


# Folders of the Hub


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001.parquet", "default/{}/0000.parquet", "data/{}.parquet"])
def test_parquet_in_nested_folders(tmp_path, layout):
    for name, count in (("train", 6), ("test", 4)):
        path = tmp_path / layout.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        saved().select(range(count)).to_parquet(path)
    (tmp_path / "README.md").write_text("# Data")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / ".gitattributes").write_text("")
    assert (len(opened(tmp_path)), len(opened(tmp_path, "eval"))) == (6, 4)


def test_one_parquet_file_in_a_data_folder(tmp_path):
    (tmp_path / "data").mkdir()
    saved().to_parquet(tmp_path / "data" / "0000.parquet")
    assert rows(tmp_path) == EXPECTED
