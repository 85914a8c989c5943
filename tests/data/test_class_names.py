"""Labels by name, by number and by truth: numbers below the class count are always valid."""

from __future__ import annotations

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from tiny import save_images, save_vit

from compressor.data.columns.labels import map_labels, map_tags
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.recipe import DataOptions

#: As ImageNet's: two birds and machines of one name, and names that differ by case alone.
CRANES = {0: "crane", 1: "dog", 2: "maillot", 3: "crane", 4: "Maillot", 5: "dog house"}


@pytest.fixture(autouse=True)
def _no_bars():
    datasets.disable_progress_bars()


def mapped(values, feature, id2label=CRANES):
    features = Features({"label": feature, "row": Value("int64")})
    dataset = Dataset.from_dict({"label": values, "row": range(len(values))}, features=features)
    return map_labels(dataset, "label", id2label, "here")[0]["label"][:]


def refusal(values, feature, id2label=CRANES):
    with pytest.raises(UserError) as caught:
        mapped(values, feature, id2label)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "feature", "expected"),
    [
        ([0, 3, 5, 4], Value("int64"), [0, 3, 5, 4]),
        ([5.0, 3.0], Value("float64"), [5, 3]),
        (["5", "3", "0"], Value("string"), [5, 3, 0]),
        (["dog", "5"], Value("string"), [1, 5]),
        (["maillot", "Maillot", "DOG HOUSE"], Value("string"), [2, 4, 5]),
        ([1, 0], ClassLabel(names=["dog house", "dog"]), [1, 5]),
    ],
)
def test_equal_names_leave_numbers_and_other_names_valid(values, feature, expected):
    assert mapped(values, feature) == expected


@pytest.mark.parametrize(
    ("values", "feature", "said"),
    [
        (["dog", "crane"], Value("string"), "row 1 of here, column 'label': label 'crane' is the name of several"),
        (["CRANE"], Value("string"), "'CRANE' is the name of several classes (0 and 3): give their numbers"),
        (["MAILLOT"], Value("string"), "classes (2 and 4)"),
        ([1], ClassLabel(names=["dog", "crane"]), "classes (0 and 3)"),
        ([6], Value("int64"), "label 6 is out of range: the model has classes 0 to 5"),
        (["6"], Value("string"), "label 6 is out of range"),
        (["heron"], Value("string"), "(crane, dog, maillot, crane, Maillot, dog house)"),
    ],
)
def test_only_a_name_of_several_classes_is_refused(values, feature, said):
    assert said in refusal(values, feature)


@pytest.mark.parametrize("names", [("crane", "crane (machine)"), ("crane bird", "Crane"), ("crane1", "crane2")])
def test_data_in_the_models_order_goes_by_number(names):
    """Names of `ClassLabel` differ from each other, so one of two cranes is always called otherwise."""
    first, second = names
    feature = ClassLabel(names=[first, "dog", "maillot", second, "Maillot swimwear", "dog house"])
    assert mapped([0, 3, 4, 2, 5], feature) == [0, 3, 4, 2, 5]
    other = ClassLabel(names=[first, "maillot", "dog", second, "Maillot", "dog house"])
    assert "is the name of several classes" in refusal([0, 3], other) or "is not one of" in refusal([0, 3], other)


def test_tags_too():
    tags = {0: "O", 1: "B", 2: "B"}
    for inner, rows, expected in (
        (Value("int64"), [[0, 2], [1]], [[0, 2], [1]]),
        (Value("string"), [["O", "2"], ["1"]], [[0, 2], [1]]),
    ):
        features = Features({"tags": List(inner), "row": Value("int64")})
        dataset = Dataset.from_dict({"tags": rows, "row": range(len(rows))}, features=features)
        assert map_tags(dataset, "tags", tags, "here")["tags"][:] == expected
    dataset = Dataset.from_dict({"tags": [["O"], ["B"]]})
    with pytest.raises(UserError, match=r"row 1 .*'B' is the name of several classes \(1 and 2\)"):
        map_tags(dataset, "tags", tags, "here")


def test_a_model_with_equal_names_takes_all_its_numbers(tmp_path):
    from compressor.models.compatibility import check_compatible
    from compressor.models.load import load_teacher

    classes = ("crane", "dog", "crane")
    teachers = [load_teacher(str(save_vit(tmp_path / name, classes=classes))) for name in ("a", "b")]
    check_compatible(teachers)
    assert teachers[0].spec.labels == dict(enumerate(classes))
    (tmp_path / "a.csv").write_text("image,label\n" + "".join(f"{index}.png,{index % 3}\n" for index in range(9)))
    split = open_split(DataOptions(source=str(tmp_path / "a.csv")), "train", id2label=teachers[0].spec.labels)
    assert set(split.labels.tolist()) == {0, 1, 2}


# Folders


def test_folders_called_by_numbers_are_class_numbers_of_a_model_with_names(tmp_path):
    """Sorted as text, 10 comes before 2."""
    names = [str(number) for number in range(12)]
    for level, name in enumerate(names):
        save_images(tmp_path, classes=(name,), per_class=2, size=4, seed=level)
    split = open_split(DataOptions(source=str(tmp_path)), "train", id2label={i: f"animal {i}" for i in range(12)})
    for image, label in zip(split.dataset["image"], split.labels, strict=True):
        assert image.filename.split("/")[-2] == str(label)


@pytest.mark.parametrize("folders", [("0", "3"), ("3", "5", "10")])
def test_some_folders_called_by_numbers(tmp_path, folders):
    save_images(tmp_path, classes=folders, per_class=3, size=4)
    split = open_split(
        DataOptions(source=str(tmp_path)), "train", id2label={**CRANES, **{i: f"x{i}" for i in range(6, 12)}}
    )
    assert set(split.labels.tolist()) <= {int(name) for name in folders}
    for image, label in zip(split.dataset["image"], split.labels, strict=True):
        assert image.filename.split("/")[-2] == str(label)


def test_folders_numbered_from_one_keep_their_order(tmp_path):
    save_images(tmp_path, classes=[str(number) for number in range(1, 13)], per_class=2, size=4)
    split = open_split(DataOptions(source=str(tmp_path)), "train", id2label={i: f"animal {i}" for i in range(12)})
    for image, label in zip(split.dataset["image"], split.labels, strict=True):
        assert int(image.filename.split("/")[-2]) == label + 1


def test_a_folder_of_a_name_of_several_classes_is_refused(tmp_path):
    save_images(tmp_path, classes=("crane", "dog"), per_class=3, size=4)
    with pytest.raises(UserError, match=r"'crane' is the name of several classes \(0 and 3\): give their numbers"):
        open_split(DataOptions(source=str(tmp_path)), "train", id2label=CRANES)


# True and false


@pytest.mark.parametrize(
    ("id2label", "expected"),
    [
        ({0: "negative", 1: "positive"}, [1, 0, 0, 1]),
        ({0: "LABEL_0", 1: "LABEL_1"}, [1, 0, 0, 1]),
        ({0: "True", 1: "False"}, [0, 1, 1, 0]),
        ({0: "TRUE", 1: "FALSE"}, [0, 1, 1, 0]),
        (None, [1, 0, 0, 1]),
    ],
)
@pytest.mark.parametrize("kind", ["bool", "string", "lower case"])
def test_true_and_false_are_labels(id2label, expected, kind):
    values = [True, False, False, True]
    if kind != "bool":
        values = [str(value).lower() if kind == "lower case" else str(value) for value in values]
    assert mapped(values, Value("bool" if kind == "bool" else "string"), id2label) == expected


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_true_and_false_in_files(tmp_path, suffix):
    dataset = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [True, False, True, True]})
    path = tmp_path / f"a.{suffix}"
    {"csv": dataset.to_csv, "jsonl": dataset.to_json, "parquet": dataset.to_parquet}[suffix](path)
    split = open_split(
        DataOptions(source=str(path), train_split="all", eval_split="all"), "train", id2label={0: "no", 1: "yes"}
    )
    truth = dict(zip("abcd", (1, 0, 1, 1), strict=True))
    assert split.labels.tolist() == [truth[text] for text in split.dataset["text"]]


@pytest.mark.parametrize("values", [[[0], [1]], [{"a": 1}, {"a": 2}]])
def test_labels_that_are_no_single_value_are_refused(values):
    dataset = Dataset.from_dict({"label": values})
    with pytest.raises(UserError, match=r"row 0 of here, column 'label': .* is neither a class number nor a name"):
        map_labels(dataset, "label", CRANES, "here")
