"""That a student leaves the machine only when it is told to, and that a failed upload harms nothing."""

import json

import pytest
from command import compress, tiny_recipe, write_recipe

from compressor.errors import UserError
from compressor.pipeline.output import hub


class Hub:
    """A Hub that writes down what it is sent."""

    def __init__(self):
        self.sent = []
        self.fails = None

    def create_repo(self, name, **options):
        assert options == {"repo_type": "model", "exist_ok": True}
        self.sent.append(("repo", name))
        return f"https://hub/{name}"

    def upload_folder(self, *, repo_id, folder_path, repo_type, commit_message):
        if self.fails:
            raise self.fails
        from pathlib import Path

        self.sent.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


@pytest.fixture
def site(monkeypatch):
    found = Hub()
    monkeypatch.setattr(hub, "HfApi", lambda: found)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_test")
    return found


@pytest.fixture
def recipe(vit_a, image_folder, tmp_path):
    values = tiny_recipe([vit_a], image_folder, tmp_path / "s", finetune={"enabled": False})
    return write_recipe(tmp_path / "r.yaml", values)


def test_nothing_is_sent_without_the_flag(capsys, site, recipe, tmp_path):
    code, _, _ = compress(capsys, "run", recipe)
    assert code == 0 and site.sent == []
    assert "hub" not in (tmp_path / "s" / "recipe.yaml").read_text()


def test_the_finished_folder_is_sent_with_its_card(capsys, site, recipe, tmp_path):
    code, out, err = compress(capsys, "run", recipe, "--push-to-hub", "me/student", "--json")
    assert code == 0 and json.loads(out)["student"]
    assert err.endswith("pushed to https://hub/me/student\n")
    names = [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml", "report.html",
        "report.json", "transport.npz",
    ]  # fmt: skip
    assert site.sent == [("repo", "me/student"), ("me/student", names)]


def test_a_failed_push_leaves_the_folder(capsys, site, recipe, tmp_path):
    site.fails = ConnectionError("no route\nto the Hub")
    code, out, err = compress(capsys, "run", recipe, "--push-to-hub", "me/student")
    assert code == 2 and "student (one-shot)" in out
    assert f"error: {tmp_path / 's'} was written, but not pushed to me/student: no route to the Hub" in err
    assert err.count("\n") == 1 and (tmp_path / "s" / "report.json").exists()
    # What was written loads as it would have.
    code, _, _ = compress(capsys, "report", tmp_path / "s")
    assert code == 0


@pytest.mark.parametrize("command", ["fuse", "finetune"])
def test_what_cannot_be_pushed_is_refused_before_any_work(capsys, site, command, vit_a, tmp_path, monkeypatch):
    teachers = ("-t", vit_a) if command == "finetune" else ()
    code, _, err = compress(capsys, command, vit_a, *teachers, "-o", tmp_path / "s", "--push-to-hub", "a/b/c")
    assert code == 2 and "'a/b/c' is no name of a repository" in err and err.count("\n") == 1
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="nobody is logged in"):
        hub.check_push("me/student")
    assert not (tmp_path / "s").exists() and site.sent == []
