"""A revision of the Hub, in a name or for all teachers."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from command import compress

from compressor.errors import UserError
from compressor.models import resolve
from compressor.models.folder.save import fingerprint
from compressor.models.load import load_teacher
from compressor.recipe import build_recipe

#: {revision: commit}, as in a cache of the Hub.
COMMITS = {"main": "1" * 40, "v1": "2" * 40}


@pytest.fixture
def cached(vit_a, vit_b, tmp_path, monkeypatch):
    """A cache that has some/model at two commits: `main` is vit-a, `v1` vit-b; the Hub knows them too."""
    place = tmp_path / "hub" / "models--some--model"
    for (revision, commit), folder in zip(COMMITS.items(), (vit_a, vit_b), strict=True):
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / revision).write_text(commit)
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download", "huggingface_hub._snapshot_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(place.parent), raising=False)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(place.parent), raising=False)

    class Hub:
        def model_info(self, name, revision, timeout):
            assert name == "some/model"
            return SimpleNamespace(sha=COMMITS[revision or "main"])

    monkeypatch.setattr(resolve, "HfApi", Hub)
    return place


def test_a_name_at_a_revision_reads_that_commit(cached, vit_a, vit_b):
    source = resolve.resolve("some/model@v1")
    assert (source.kind, source.location) == ("hub", f"some/model@{COMMITS['v1']}")
    teacher = load_teacher("some/model@v1")
    assert teacher.fingerprint == fingerprint(vit_b) and teacher.processor is not None
    assert load_teacher("some/model").fingerprint == fingerprint(vit_a)
    assert resolve.local_files(source) == cached / "snapshots" / COMMITS["v1"]
    assert resolve.load_config("some/model@v1").hidden_size == teacher.config.hidden_size


def test_a_revision_that_is_not_reachable_is_read_from_the_cache(cached, vit_b, monkeypatch):
    monkeypatch.setattr(resolve, "HfApi", lambda: None)
    assert resolve.resolve("some/model@v1").location == str(cached / "snapshots" / COMMITS["v1"])
    assert load_teacher("some/model@v1").fingerprint == fingerprint(vit_b)
    with pytest.raises(UserError, match="no model 'some/model@v2'"):
        resolve.resolve("some/model@v2")


def test_one_revision_is_that_of_all_teachers_without_one():
    recipe = build_recipe({"teachers": ["some/a", "some/b@main"], "revision": "v1"})
    assert recipe.teachers == ("some/a@v1", "some/b@main")
    # The recipe that is written makes the same again.
    assert build_recipe(recipe.model_dump(mode="json")) == recipe


def test_a_folder_may_have_an_at_in_its_name(vit_a, tmp_path):
    folder = shutil.copytree(vit_a, tmp_path / "a@1")
    assert resolve.resolve(str(folder)).kind == "folder"
    assert load_teacher(str(folder)).fingerprint == fingerprint(vit_a)


@pytest.mark.parametrize("name, reason", [("vit-a", "a built-in teacher"), ("FOLDER", "a folder")])
def test_what_is_not_of_the_hub_has_no_revision(capsys, vit_a, name, reason):
    name = str(vit_a) if name == "FOLDER" else name
    for words in (["plan", name, "--revision", "v1"], ["inspect", f"{name}@v1"], ["fuse", name, "--revision", "v1"]):
        code, out, err = compress(capsys, *words)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert f"{name} is {reason}, and only models of the Hub have revisions" in err


def test_an_empty_revision_names_nothing():
    with pytest.raises(UserError, match="names no revision"):
        resolve.resolve("some/model@")
