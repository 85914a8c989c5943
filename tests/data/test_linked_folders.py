"""Links in a data folder are followed; what they lose is named."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise

import datasets
import pytest
from PIL import Image
from tiny import CLASSES, save_images

from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.recipe import DataOptions

ID2LABEL = dict(enumerate(CLASSES))


@pytest.fixture(autouse=True)
def _no_bars():
    datasets.disable_progress_bars()


def opened(source, role="train"):
    return open_split(DataOptions(source=str(source)), role, id2label=ID2LABEL)


def counts(source):
    """Samples of both roles, and how many of them are of each class."""
    splits = [opened(source, role) for role in ("train", "eval")]
    labels = [label for split in splits for label in split.labels.tolist()]
    return sum(map(len, splits)), [labels.count(index) for index in range(len(CLASSES))]


def refusal(source):
    with pytest.raises(UserError) as caught:
        opened(source)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def store(tmp_path):
    """Ten images of each of four classes, outside of the data folder."""
    save_images(tmp_path / "store", per_class=10, size=8)
    return tmp_path / "store"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize("linked", [CLASSES[:2], CLASSES], ids=["two of four", "all"])
@pytest.mark.parametrize("relative", [False, True])
def test_class_folders_that_are_links(store, root, linked, relative):
    for name in CLASSES:
        if name in linked:
            (root / name).symlink_to(f"../store/{name}" if relative else store / name)
        else:
            (store / name).rename(root / name)
    assert counts(root) == (40, [10] * 4)


def test_files_that_are_links(store, root):
    for file in store.rglob("*.png"):
        (root / file.parent.name).mkdir(exist_ok=True)
        (root / file.parent.name / file.name).symlink_to(file)
    assert counts(root) == (40, [10] * 4)


def test_split_folders_that_are_links(store, root, tmp_path):
    save_images(tmp_path / "more", per_class=3, size=8)
    (root / "train").symlink_to(store)
    (root / "test").symlink_to(tmp_path / "more")
    assert (len(opened(root, "train")), len(opened(root, "eval"))) == (40, 12)


def test_links_to_links_and_a_root_that_is_one(store, root, tmp_path):
    for name in CLASSES:
        (tmp_path / f"hop-{name}").symlink_to(store / name)
        (root / name).symlink_to(tmp_path / f"hop-{name}")
    (tmp_path / "way").symlink_to(root)
    assert counts(tmp_path / "way") == (40, [10] * 4)


def test_two_classes_may_be_one_folder(store, root):
    """One link after the other to the same place is no cycle."""
    for name in CLASSES:
        (root / name).symlink_to(store / "cat")
    assert counts(root) == (40, [10] * 4)


def test_folders_below_a_class_may_be_links(store, root):
    for name in CLASSES:
        (root / name).mkdir()
        (root / name / "part").symlink_to(store / name)
    assert counts(root) == (40, [10] * 4)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_tables_and_their_folders_that_are_links(store, root, tmp_path, kind):
    (tmp_path / "tables").mkdir()
    columns = {"text": [f"a {index}" for index in range(6)], "label": [0, 1, 2, 3, 0, 1]}
    table = datasets.Dataset.from_dict(columns)
    path = tmp_path / "tables" / f"train.{kind}"
    table.to_parquet(path) if kind == "parquet" else table.to_csv(path)
    (root / f"test.{kind}").symlink_to(path)
    (root / "more").symlink_to(tmp_path / "tables")
    assert (len(opened(root, "train")), len(opened(root, "eval"))) == (6, 6)


@pytest.mark.parametrize("target", ["../..", "..", "."])
def test_links_to_the_folder_that_holds_them_end(store, root, target):
    for name in CLASSES:
        (store / name).rename(root / name)
    (root / "cat" / "again").symlink_to(target)
    (root / "dog" / "round").symlink_to(root / "ant")
    (root / "ant" / "round").symlink_to(root / "dog")
    total, by_class = counts(root)
    # A dog's folder holds the ants' by its link, and the other way round.
    assert total == 60 and by_class == [10, 20, 20, 10]


def test_links_on_endless_ways_are_refused(root, tmp_path, monkeypatch):
    from compressor.data.files import folders

    monkeypatch.setattr(folders, "_MOST_REPEATS", 50)
    places = [tmp_path / f"hall{index}" for index in range(12)]
    for place in places:
        place.mkdir()
    for place, following in pairwise(places):
        for door in ("left", "right"):
            (place / door).symlink_to(following)
    (root / "in").symlink_to(places[0])
    assert "lead to the same folders more than 50 times" in refusal(root)


@pytest.mark.parametrize("name", ["cat", "cat/9.png", "train.csv", "notes"])
def test_links_that_lead_nowhere_are_named(store, root, name):
    for label in CLASSES[1:]:
        (root / label).symlink_to(store / label)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).symlink_to("/no/such/place")
    line = refusal(root)
    assert f"{root / name} is a link to /no/such/place, which cannot be reached" in line


@pytest.mark.parametrize("name", ["data.csv", "images"])
def test_a_source_that_is_a_broken_link_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.symlink("gone", name)
    for source in (name, str(tmp_path / name)):
        assert "is a link to gone, which cannot be reached" in refusal(source)
    os.symlink("loop", "loop")
    assert "is a link to loop, which cannot be reached" in refusal("loop")


def test_links_to_pipes_and_devices_are_refused(store, root):
    (root / "cat").symlink_to(store / "cat")
    os.mkfifo(root.parent / "pipe")
    for target, said in (("../pipe", "a pipe (FIFO)"), ("/dev/zero", "a device")):
        (root / "zz.png").symlink_to(target)
        assert said in refusal(root)
        (root / "zz.png").unlink()


@pytest.mark.slow
def test_very_deep_folders_are_read(root):
    """Deeper than Python's calls may nest; pytest could not remove them."""
    inner = [os.path.join(root, *["a"] * depth) for depth in (1, 600, 1100)]
    subprocess.run(["mkdir", "-p", inner[-1]], check=True)
    try:
        for folder in inner[:2]:
            Image.new("RGB", (8, 8)).save(os.path.join(folder, "0.png"))
        assert len(opened(root)) + len(opened(root, "eval")) == 2
    finally:
        subprocess.run(["rm", "-rf", inner[0]], check=True)


def test_a_folder_that_cannot_be_listed_is_named(store, root, monkeypatch):
    (root / "cat").symlink_to(store / "cat")
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert f"cannot read the folder {root / 'cat'}: Permission denied" in refusal(root)


@pytest.mark.parametrize("name", [b"caf\xe9", b"cat/caf\xe9.png", b"caf\xe9.csv"])
def test_names_that_are_no_text_are_refused(store, root, name):
    for label in CLASSES[1:]:
        (root / label).symlink_to(store / label)
    path = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(os.fsencode(store / "cat" if b"." not in name else store / "cat" / "0.png"), path)
    for source in (str(root), os.fsdecode(path)):
        assert "caf\\xe9" in refusal(source) and "is not UTF-8: rename it" in refusal(source)


@pytest.mark.parametrize("depth", ["link", "link below a link"])
def test_an_output_in_a_linked_folder_lies_in_the_data(store, root, tmp_path, depth):
    from compressor.pipeline.output.apart import Input, check_apart

    if depth == "link":
        (root / "cat").symlink_to(store / "cat")
    else:
        (tmp_path / "between").mkdir()
        (tmp_path / "between" / "cat").symlink_to(store / "cat")
        (tmp_path / "between" / "round").symlink_to(root)
        (root / "more").symlink_to(tmp_path / "between")
    for output in (store / "cat", store / "cat" / "student", root / "s"):
        with pytest.raises(UserError, match="lies inside the data"):
            check_apart(output, [Input("the data", root)])
    check_apart(store / "dog" / "student", [Input("the data", root)])
