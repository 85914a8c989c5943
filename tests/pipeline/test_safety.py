"""Nothing is lost: no command removes what it reads or what it did not write, whatever --force is given."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from command import compress, tiny_recipe, write_recipe
from forked import fork_command
from watched import snapshot

from compressor.errors import UserError
from compressor.utils.files import atomic_directory

pytestmark = pytest.mark.skipif(os.name == "nt", reason="makes links and sends POSIX signals")


@pytest.fixture
def former(fused_run):
    """The output of a run that was only fused."""
    return fused_run


@pytest.fixture
def here(tmp_path, monkeypatch, vit_a, vit_b, image_folder, former):
    """The working folder: teachers x/a and x/b, data x/data, a former output x/s, and links to them."""
    root = tmp_path / "here"
    for name, source in {"a": vit_a, "b": vit_b, "data": image_folder, "s": former}.items():
        shutil.copytree(source, root / "x" / name)
    (root / "links").mkdir()
    for name in ("a", "data", "s"):
        (root / "links" / name).symlink_to(f"../x/{name}")
    (root / "up").symlink_to(root / "x")
    (root / "x" / "notes.csv").write_text("text,label\nfine,1\n")
    monkeypatch.chdir(root)
    return root


def refused(capsys, here, *command, said):
    before = snapshot(here)
    code, out, err = compress(capsys, *command)
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1 and said in err, err
    assert snapshot(here) == before


QUICK = ("--samples", 16, "--no-finetune", "--no-latency", "--no-onnx")


class TestInputsStay:
    @pytest.mark.parametrize("force", [(), ("--force",)], ids=["plain", "force"])
    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("fuse x/a x/b -o x/a", "is the teacher x/a"),
            ("fuse x/a x/b -o x/a/", "is the teacher x/a"),
            ("fuse x/a x/b -o x", "holds the teacher x/a"),
            ("fuse x/a x/b -o up", "holds the teacher x/a"),
            ("fuse x/a x/b -o links/../x/b", "is the teacher x/b"),
            ("fuse x/a x/b -o up/b", "is the teacher x/b"),
            ("fuse x/a x/b -o links/a/student", "lies inside the teacher x/a"),
            ("fuse links/a x/b -o x/a", "is the teacher links/a"),
            ("fuse links/a x/b -o links", "holds the teacher links/a"),
            ("fuse x/a --data x/data -o x/data", "is the data x/data"),
            ("fuse x/a --data x/data -o x/data/student", "lies inside the data x/data"),
            ("fuse x/a --data x/data -o links/data/train/student", "lies inside the data x/data"),
            ("fuse x/a --data . -o student", "lies inside the data ."),
            ("fuse x/a --data x/notes.csv -o x", "holds the teacher x/a"),
            ("fuse b --data x/*.csv -o x", "holds the data x/*.csv"),
            ("fuse b --data x/notes.csv,x/notes.csv -o x", "holds the data"),
            ("fuse x/a --anchor x/s -o x/s", "is the anchor x/s"),
            ("finetune x/s -t x/a -o x/s", "is the student x/s"),
            ("finetune x/s -t x/a -o x/s/tuned", "lies inside the student x/s"),
            ("run x/s/recipe.yaml -o x/s", "holds the recipe x/s/recipe.yaml"),
            ("fuse x/a --tensorboard logs/run -o logs", "holds the TensorBoard logs logs/run"),
            ("export x/a -o x/b --data x/b", "is the data x/b"),
            ("export x/a -o x", "holds the model x/a"),
            ("export x/a -o x/a/deploy", "lies inside the model x/a"),
            ("export x/a -o x/data --data x/data", "is the data x/data"),
            ("landscape x/a x/b x/s --data x/data -o x/a/config.svg", "lies inside the model x/a"),
            ("interpolate x/a x/b --data x/data -o up/data/c.png", "lies inside the data x/data"),
            ("bench x/a -o x/a/new.json", "lies inside the model x/a"),
            ("inspect x/a --graph links/a/graph.svg", "lies inside the model x/a"),
        ],
    )
    def test_an_output_that_is_read(self, capsys, here, command, said, force):
        refused(capsys, here, *command.split(), *force, said=said)

    def test_a_file_that_is_read(self, capsys, here):
        refused(capsys, here, "bench", "x/a", "-o", "x/a/config.json", "--force", said="lies inside the model x/a")
        Path("m.onnx").touch()
        refused(capsys, here, "bench", "m.onnx", "-o", "m.onnx", "--force", said="is the model m.onnx")
        Path("n.onnx").symlink_to("m.onnx")
        refused(capsys, here, "bench", "n.onnx", "-o", "m.onnx", "--force", said="is the model n.onnx")

    def test_weights_that_a_link_leads_to(self, capsys, here):
        """The teacher's folder lies elsewhere, but what it links to is in the output."""
        Path("x/a/model.safetensors").rename("x/s/model.safetensors")
        Path("x/a/model.safetensors").symlink_to("../s/model.safetensors")
        refused(capsys, here, "fuse", "x/a", "-o", "x/s", "--force", said="holds the teacher x/a")

    def test_a_link_in_the_output_on_the_way_to_an_input(self, capsys, here):
        Path("x/s/onnx").symlink_to("../a")
        refused(capsys, here, "fuse", "x/s/onnx", "-o", "x/s", "--force", said="holds the teacher x/s/onnx")

    def test_the_work_folder_counts_too(self, capsys, here):
        shutil.copytree("x/a", "new.work")
        refused(capsys, here, "fuse", "new.work", "-o", "new", "--force", said="new.work is the teacher new.work")

    def test_the_cache_of_a_builtin_teacher(self, capsys, here, quick_builtin):
        from compressor.models.builtin import builtin_folder

        refused(capsys, here, "fuse", "vit-a", "-o", builtin_folder("vit-a"), said="is the teacher vit-a")
        refused(capsys, here, "fuse", "vit-a", "-o", builtin_folder("vit-a").parent, said="holds the teacher vit-a")

    def test_the_cache_of_the_hub(self, capsys, here):
        from huggingface_hub.constants import HF_HUB_CACHE

        place = Path(HF_HUB_CACHE, "models--some--model")
        refused(capsys, here, "fuse", "some/model", "-o", place, said="is the teacher some/model")

    def test_links_in_a_circle(self, capsys, here):
        Path("one").symlink_to("two")
        Path("two").symlink_to("one")
        refused(capsys, here, "fuse", "x/a", "-o", "one/student", said="links")

    def test_neighbours_are_no_inputs(self, capsys, here):
        """Beside its teachers, with a name that begins alike, and below the folder that holds everything."""
        before = snapshot(here)
        code, _, err = compress(capsys, "fuse", "x/a", *QUICK, "--data", "x/data", "-o", "x/a-student")
        assert code == 0, err
        after = snapshot(here)
        assert before.items() <= after.items()
        assert all(name.startswith("x/a-student") for name in after.keys() - before.keys())

    def test_an_export_into_the_models_own_folder(self, capsys, here):
        """That is what it is for; but data in the place of its files is as safe as anywhere."""
        shutil.copytree("x/data", "x/a/onnx")
        refused(capsys, here, "export", "x/a", "--data", "x/a/onnx", "--force", said="x/a holds the data x/a/onnx")
        refused(capsys, here, "export", "x/a", "--data", "x", "--force", said="lies inside the data x")


class TestOnlyFormerOutputsAreReplaced:
    def test_a_former_output(self, capsys, here):
        before = snapshot(here)
        code, _, err = compress(capsys, "fuse", "x/b", *QUICK, "--data", "x/data", "-o", "x/s", "--force")
        assert code == 0, err
        after = snapshot(here)
        assert after["x/s/model.safetensors"] != before["x/s/model.safetensors"]
        others = {name for name in before if not name.startswith("x/s/")}
        assert {name: after.get(name) for name in others} == {name: before[name] for name in others}
        assert after.keys() == before.keys()

    def test_an_empty_folder(self, capsys, here):
        Path("empty").mkdir()
        assert compress(capsys, "fuse", "x/b", *QUICK, "-o", "empty", "--force")[0] == 0
        assert Path("empty/report.json").exists()

    @pytest.mark.parametrize(
        "files",
        [
            {"notes.txt": "mine"},
            {"config.json": "{}", "model.safetensors": "mine"},
            {"recipe.yaml": "# The recipe of this folder;\nteachers: [a]\n", "model.safetensors": "mine"},
            {"report.json": "[]"},
            {"report.json": '{"table": [], "mine": 1}'},
            {"report.json": "[" * 100_000},
        ],
    )
    def test_another_folder(self, capsys, here, files):
        Path("mine").mkdir()
        for name, text in files.items():
            Path("mine", name).write_text(text)
        refused(capsys, here, "fuse", "x/a", "-o", "mine", "--force", said="is not the output of a former run")

    @pytest.mark.parametrize(
        "name", ["notes.txt", "onnx/mine.onnx", "mine/config.json", "model-1.safetensors", ".git/a"]
    )
    def test_a_former_output_with_other_files(self, capsys, here, name):
        Path("x/s", name).parent.mkdir(exist_ok=True)
        Path("x/s", name).write_text("mine")
        said = f"holds {name.split('/')[0] if name[0] in 'm.' and '/' in name else name}, which no run has written"
        refused(capsys, here, "fuse", "x/a", "-o", "x/s", "--force", said=said)

    def test_a_former_output_with_a_link(self, capsys, here):
        Path("x/s/vocab.txt").symlink_to("../notes.csv")
        refused(capsys, here, "fuse", "x/a", "-o", "x/s", "--force", said="holds vocab.txt")

    def test_what_appears_meanwhile_stays(self, former, tmp_path):
        """Hours lie between the first look and the end."""
        from compressor.pipeline.run.former import check_former

        output = shutil.copytree(former, tmp_path / "s")
        with pytest.raises(UserError, match="kept in") as caught, atomic_directory(output, check_former) as folder:
            (folder / "new").touch()
            (output / "notes.txt").write_text("mine")
        assert (output / "notes.txt").read_text() == "mine" and (output / "report.json").exists()
        assert Path(str(caught.value).rsplit("kept in ", 1)[1], "new").exists()

    def test_every_tokenizers_files_are_known(self):
        """Of all families: an output of ours is never taken for another's."""
        import re

        import transformers

        from compressor.pipeline.run.former import _PROCESSOR

        found = set()
        for file in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
            for table in re.findall(r"^VOCAB_FILES_NAMES = \{(.*?)\}", file.read_text(), re.DOTALL | re.MULTILINE):
                found |= set(re.findall(r': *"([^"]+\.[^"]+)"', table))
        assert len(found) > 10 and found <= _PROCESSOR

    @pytest.mark.parametrize("what", ["folder", "link", "fifo"])
    def test_a_result_file_replaces_plain_files_alone(self, capsys, here, what):
        if what == "folder":
            Path("r.json").mkdir()
        elif what == "link":
            Path("r.json").symlink_to("x/notes.csv")
        else:
            os.mkfifo("r.json")
            code, _, err = compress(capsys, "bench", "x/a", "-o", "r.json", "--force")
            assert code == 2 and "is not a plain file" in err
            return
        refused(capsys, here, "bench", "x/a", "-o", "r.json", "--force", said="is not a plain file")


class TestExport:
    def test_files_of_others_in_the_folder(self, capsys, here):
        """Whatever an export replaces or removes is asked for, and what it did not write it does not remove."""
        Path("out/onnx").mkdir(parents=True)
        for name in ("config.json", "model.onnx.data", "model_quantized.onnx"):
            path = Path("out/onnx", name)
            path.write_text("mine")
            refused(capsys, here, "export", "x/a", "-o", "out", said=str(path))
            path.unlink()
        Path("out/onnx/model_quantized.onnx").write_text("mine")
        refused(capsys, here, "export", "x/a", "-o", "out", "--force", said="remove it by hand")
        Path("out/onnx/model_quantized.onnx").unlink()
        Path("out/onnx/config.json").symlink_to("../../x/a/config.json")
        refused(capsys, here, "export", "x/a", "-o", "out", "--force", said="is not a plain file")

    def test_an_empty_folder_stays(self, capsys, here, monkeypatch):
        from compressor.errors import ParityError
        from compressor.export import write

        def fail(*arguments, **options):
            raise ParityError("it differs")

        monkeypatch.setattr(write, "write_onnx", fail)
        Path("out").mkdir()
        refused(capsys, here, "export", "x/a", "-o", "out", said="it differs")

    def test_documents_that_the_user_has_edited(self, former, tmp_path):
        from compressor.pipeline.output.documents import edited_documents, update_report

        folder = shutil.copytree(former, tmp_path / "s")
        assert edited_documents(folder) == []
        for name in ("README.md", "report.html"):
            (folder / name).write_text("mine")
        edited = edited_documents(folder)
        assert edited == [folder / "README.md", folder / "report.html"]
        update_report(folder, {"notes": ["new"]}, edited)
        assert {path.read_text() for path in edited} == {"mine"}
        assert json.loads((folder / "report.json").read_text())["notes"] == ["new"]


class TestWorkFolder:
    @pytest.mark.parametrize("flags", [(), ("--force",), ("--resume",), ("--force", "--resume")])
    @pytest.mark.parametrize("kind", ["files", "empty", "link", "state"])
    def test_a_folder_of_the_user(self, capsys, here, kind, flags):
        work = Path("student.work")
        if kind == "link":
            Path("elsewhere").mkdir()
            work.symlink_to("elsewhere")
        else:
            work.mkdir()
        if kind == "files":
            (work / "thesis.tex").write_text("mine")
        if kind == "state":
            (work / "state.json").write_text('{"key": "mine"}')
        refused(capsys, here, "fuse", "x/a", *flags, said="is not the work of an interrupted run")

    def test_what_others_put_into_ours_stays(self, tmp_path, vit_a):
        from compressor.models.load import load_teacher
        from compressor.pipeline.run.initial_student import InitialStudent
        from compressor.pipeline.run.state import RunState

        work = RunState(tmp_path / "s.work", {})
        beginning = InitialStudent(load_teacher(str(vit_a)).model, {})
        work.save(beginning)
        (work.folder / "thesis.tex").write_text("mine")
        work.save(beginning)
        assert (work.folder / "state.json").exists()
        work.remove()
        assert snapshot(tmp_path).keys() == {"s.work", "s.work/thesis.tex"}

    def test_that_of_a_former_version(self, tmp_path):
        from compressor.pipeline.run.state import check_work

        (tmp_path / "state.json").write_text(json.dumps({"key": {"teachers": ["a"]}, "report": {}}))
        check_work(tmp_path)


def test_a_second_run_is_told_who_writes_and_a_killed_one_lets_go(capsys, here):
    steps = {"steps": 200, "batch_size": 4, "checkpoint_every": 10}
    recipe = write_recipe(Path("r.yaml"), tiny_recipe(["x/a"], "x/data", "student", finetune=steps))
    running = fork_command("run", recipe)
    try:
        deadline = time.monotonic() + 120
        while not list(here.glob("student.work/checkpoints/checkpoint-*/finished")):
            assert running.is_alive() and time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGSTOP)
        said = f"is being written by process {running.pid}"
        for flags in ((), ("--resume",), ("--force",), ("--force", "--resume")):
            refused(capsys, here, "run", recipe, *flags, said=said)
        refused(capsys, here, "export", "x/a", "-o", "up/../student", said=said)
    finally:
        running.kill()
        running.join()
    short = write_recipe(Path("r.yaml"), tiny_recipe(["x/a"], "x/data", "student", finetune=steps))
    refused(capsys, here, "run", short, said="--resume")
    code, _, err = compress(capsys, "run", short, "--resume")
    assert code == 0, err
    assert json.loads(Path("student/report.json").read_text())["finetune"]["resumed_from"] >= 10
    assert sorted(path.name for path in here.iterdir()) == ["links", "r.yaml", "student", "up", "x"]


class TestLeftByKilledProcesses:
    @pytest.fixture
    def output(self, former, tmp_path):
        return shutil.copytree(former, tmp_path / "s")

    def killed(self, output, at):
        """Replace an output in a process that is killed at the n-th rename, or before the first if that is 0."""
        child = multiprocessing.get_context("fork").Process(target=_replace, args=(output, at))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL

    def told(self, output):
        from compressor.pipeline.output.claim import claimed

        lines = []
        with claimed(output, (), remark=lines.append):
            return lines

    def test_half_written(self, output, tmp_path):
        before = snapshot(tmp_path)
        self.killed(output, 0)
        assert snapshot(tmp_path) != before
        (line,) = self.told(output)
        assert line.startswith("note: removed ") and snapshot(tmp_path) == before
        assert self.told(output) == []

    def test_between_the_two_renames_the_former_output_comes_back(self, output, tmp_path):
        before = snapshot(tmp_path)
        self.killed(output, 2)
        assert not output.exists()
        lines = self.told(output)
        assert any(f"put {output} back" in line for line in lines)
        after = snapshot(tmp_path)
        assert before.items() <= after.items()
        # What was finished is not lost either.
        assert any("is the finished result" in line for line in lines)
        assert list(tmp_path.glob(".s.*.partial/s/new"))

    def test_after_the_second_rename(self, output, tmp_path):
        self.killed(output, 3)
        assert (output / "new").exists()
        assert len(self.told(output)) == 2
        assert snapshot(tmp_path).keys() == {"s", "s/new"}

    def test_what_is_not_ours_or_in_use_stays(self, output, tmp_path):
        for name in (".s.12345678.partial", ".s.12345678.old", ".s.mine.partial", ".s.old"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "notes.txt").write_text("mine")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / ".compressor-scratch").touch()
        (tmp_path / ".s.abcdefgh.partial").symlink_to(elsewhere)
        (tmp_path / ".s.11111111.old").write_text("mine")
        with atomic_directory(tmp_path / "s2"), atomic_directory(tmp_path / "other" / "s"):
            before = snapshot(tmp_path)
            assert self.told(output) == self.told(tmp_path / "s2") == []
            assert snapshot(tmp_path) == before

    def test_the_user_is_told(self, capsys, here):
        self.killed(Path("x/s"), 0)
        code, _, err = compress(capsys, "fuse", "x/b", *QUICK, "-o", "x/s", "--force")
        assert code == 0 and err.count("which a killed run had left") == 1
        assert not list(Path("x").glob(".*"))

    def test_single_files(self, capsys, here):
        """A picture, and the files inside a model's folder."""
        child = multiprocessing.get_context("fork").Process(target=_write_file, args=(Path("g.svg"),))
        child.start()
        child.join(60)
        assert [path.name for path in here.glob(".*")] != []
        code, _, err = compress(capsys, "inspect", "x/a", "--graph", "g.svg")
        assert code == 0 and err.count("which a killed run had left") == 1
        assert list(here.glob(".*")) == []


def _replace(output, at):
    rename, calls = Path.rename, 0

    def counted(path, target):
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        moved = rename(path, target)
        if calls == at - 1 == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    Path.rename = counted
    with atomic_directory(output, lambda folder: None) as folder:
        (folder / "new").touch()
        if at == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _write_file(path):
    from compressor.utils.files import atomic_write_text

    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    atomic_write_text(path, "half")
