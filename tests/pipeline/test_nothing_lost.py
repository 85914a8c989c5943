"""No command ever removes a file that it did not write, nor one that it reads.

Fifty random layouts of teachers, data, former outputs, folders of the user, work folders and links between them are
watched while every command that writes is run in each, with and without --force, on places drawn at random. What costs
time is replaced by something quick that writes nothing elsewhere; whatever writes, moves or removes files is real.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
from pathlib import Path

import pytest
from command import compress, tiny_recipe, write_recipe
from tiny import save_vit
from watched import snapshot

pytestmark = pytest.mark.skipif(os.name == "nt", reason="makes links")

LAYOUTS = 50
#: Of them, in `make test`; `make test-all` tries all.
FAST_LAYOUTS = 6
#: What an export and a page may change in a model's own folder.
OWN = ("onnx", "torch", "report.json", "report.html", "README.md")
#: Files that a user may have, under names that we write too.
MINE = (
    "notes.txt", "config.json", "README.md", "recipe.yaml", "report.html", "model.safetensors", "onnx/model.onnx",
    "onnx/model.onnx.data", "onnx/config.json", "onnx/model_quantized.onnx", "torch/model.pt2", "state.json",
    "graph.svg", "graph.json", "one-shot/config.json", "checkpoints/checkpoint-2/finished", ".compressor-mine",
)  # fmt: skip


@pytest.fixture(scope="module")
def former(fused_run, vit_a, image_folder, tmp_path_factory):
    """Folders that a run has written: its output, and what it left when it was interrupted."""
    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import build_recipe

    folder = tmp_path_factory.mktemp("former")

    def stop(stage, share, line):
        if stage == "finetune":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(build_recipe(tiny_recipe([vit_a], image_folder, folder / "t")), progress=stop)
    return {"output": fused_run, "work": folder / "t.work"}


@pytest.fixture(scope="module")
def quick(vit_a, tmp_path_factory):
    """What costs time, replaced: the fusion, the finetune, the export of a graph, drawing and timing."""
    from compressor import export_onnx
    from compressor.errors import UserError
    from compressor.export import onnx as exporter
    from compressor.models.load import load_teacher
    from compressor.pipeline import bench, landscape
    from compressor.pipeline.run import run
    from compressor.pipeline.run.initial_student import InitialStudent

    def begin(recipe, teachers, given, data, mixture, *rest):
        report = {"target": None, "fusion": None, "warnings": [], "mixture": mixture.report()}
        return InitialStudent(copy.deepcopy(teachers[0].model), report)

    def finetune(run, *rest):
        checkpoint = run.work.checkpoints / "checkpoint-2"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "finished").touch()
        raise (KeyboardInterrupt, UserError)[run.recipe.seed % 2]("stopped in the finetune")

    exported = export_onnx(load_teacher(str(vit_a)).model, tmp_path_factory.mktemp("exported")).path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "initial_student", begin)
        patch.setattr(run, "_finetune", finetune)
        patch.setattr(exporter, "_export", lambda graph, path: shutil.copy(exported, path))
        patch.setattr(landscape, "draw_plane", lambda found, path: path.write_text("plane"))
        patch.setattr(landscape, "draw_curves", lambda found, path: path.write_text("curves"))
        patch.setattr(bench, "bench_models", lambda *_, **__: {"results": [], "table": [], "notes": []})
        yield


@pytest.fixture(scope="module")
def vit_c(tmp_path_factory):
    return save_vit(tmp_path_factory.mktemp("teachers") / "c", seed=2)


class Layout:
    """Folders and links at random, and which of the files in them are ours."""

    def __init__(self, root, seed, sources):
        self.root, self.draw = root, random.Random(seed)
        self.folders = [root]
        for index in range(4):
            self.folders.append(self.draw.choice(self.folders) / f"d{index}")
            self.folders[-1].mkdir()
        self.models = [self.put(sources[kind], kind) for kind in ("a", "b", "c", "output")]
        self.data = [self.put(sources["data"], "data")]
        ours = [self.models[-1], self.put(sources["output"], "old")]
        self.outputs = list(ours)
        for _ in range(3):
            folder = self.draw.choice([*self.folders, *self.outputs])
            for name in self.draw.sample(MINE, 3):
                path = folder / self.draw.choice(["", "mine", "new.work", "old.work"]) / name
                if not os.path.lexists(path) and not path.parent.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(f"mine {path}")
        work = self.draw.choice(self.folders) / "new.work"
        if not work.exists():
            ours.append(shutil.copytree(sources["work"], work))
        for name in (".new.abcdefgh.partial", ".old.abcdefgh.old"):
            path = self.draw.choice(self.folders) / name / "new"
            path.mkdir(parents=True, exist_ok=True)
            (path / "mine").write_text("mine")
        mine = {path for path in self.all() if not any(path.is_relative_to(one) for one in ours)}
        mine |= {path for path in self.all() if path.is_file() and path.read_bytes().startswith(b"mine")}
        for index in range(4):
            link = self.draw.choice([*self.folders, *self.outputs]) / f"link{index}"
            link.symlink_to(self.draw.choice(sorted(self.all())))
            mine.add(link)
        self.ours = {str(path.relative_to(root)) for path in self.all() - mine}
        data = self.draw.choice([None, *self.data])
        file = self.draw.choice([*self.folders, *self.outputs]) / "r.yaml"
        self.recipe = write_recipe(file, tiny_recipe([self.models[0]], data, "student", seed=seed % 2))
        self.recipe_reads = [self.recipe, self.models[0], *([data] if data else [])]

    def put(self, source, name):
        folder = self.draw.choice(self.folders) / name
        return folder if folder.exists() else shutil.copytree(source, folder)

    def all(self):
        return {Path(place, name) for place, *names in os.walk(self.root) for name in (*names[0], *names[1])}

    def place(self):
        """A place to write to: something that is there, something in it, or something new; links among them."""
        there = [path for path in sorted(self.all()) if path.is_dir()]
        path = self.draw.choice([*there, *self.outputs, *self.models, *self.data])
        end = self.draw.choice(["", "", "/", "/new", "/old", "/mine", "/..", f"/../{path.name}", "/onnx"])
        return os.path.relpath(path, self.root) + end

    def commands(self, odd):
        """Every command that writes: its words, what it reads, and the files that it may replace by name.

        Those that differ little take turns: landscape and interpolate, export to a folder and into the model's own.
        """
        models = [str(self.draw.choice(self.models)) for _ in range(2)]
        alike = [str(model) for model in self.draw.sample(self.models[:3], 3)]
        data = str(self.draw.choice(self.data))
        job = ("--no-latency", "--no-onnx", "--seed", self.draw.choice("01"), "--samples", "4", "--eval-samples", "4")
        place = self.place()
        picture = f"{self.place()}/graph.svg"
        with_data = self.draw.choice([("--data", data), ()])
        reads = [*models[:1], *with_data[1:]]
        yield ("fuse", models[0], *with_data, *job, "-o", place), reads, []
        yield ("finetune", models[1], "-t", models[0], "--data", data, *job[:4], "-o", place), [*models[:2], data], []
        yield ("run", self.recipe, "-o", place), self.recipe_reads, []
        into = [f"{place}/{name}" for name in OWN]
        if odd:
            yield ("export", models[0], *with_data, "-o", place, "--tolerance", "9"), reads, into
        else:
            yield ("export", models[0], "--tolerance", "9"), reads[:1], [f"{models[0]}/{name}" for name in OWN]
        named = [picture, picture.replace(".svg", ".json")]
        few = ("--data", data, "--eval-samples", "2", "--points")
        if odd:
            yield ("landscape", *alike, *few, "2", "-o", picture), [*alike, data], named
        else:
            yield ("interpolate", *alike[:2], *few, "3", "-o", picture), [*alike[:2], data], named
        yield ("bench", models[0], "--json", "-o", named[1]), models[:1], named[1:]
        yield ("inspect", models[0], "--graph", picture), models[:1], named[:1]
        yield ("report", self.outputs[0], "--html"), [], [f"{self.outputs[0]}/report.html"]


def is_below(path, places):
    return any(path == place or path.is_relative_to(place) for place in places)


def check(layout, before, after, command, force, reads, named):
    """What was there is there as it was, unless it is ours and was not read, or was to be replaced by its name."""
    inputs = [Path(path).resolve() for path in reads]
    named = [Path(path).parent.resolve() / Path(path).name for path in named]
    for name in (name for name, content in before.items() if after.get(name) != content):
        path = layout.root / name
        own = command[0] in ("export", "report") and is_below(path, named)
        assert own or not is_below(path, inputs), f"{name} was read"
        replaced = force and name in after and is_below(path, named)
        assert name in layout.ours or replaced, f"{name} was not ours"


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.slow if seed >= FAST_LAYOUTS else ()) for seed in range(LAYOUTS)]
)
def test_no_command_removes_what_it_did_not_write(
    seed, capsys, tmp_path, monkeypatch, vit_a, vit_b, vit_c, image_folder, former, quick
):
    root = (tmp_path / "root").resolve()
    root.mkdir()
    monkeypatch.chdir(root)
    layout = Layout(root, seed, {"a": vit_a, "b": vit_b, "c": vit_c, "data": image_folder, **former})
    before = snapshot(root)
    for command, reads, named in layout.commands(seed % 2):
        for force in (False, True):
            flags = ["--force"] if force else []
            flags += ["--resume"] if command[0] == "fuse" and seed % 3 == 0 else []
            code, _, err = compress(capsys, *command, *flags)
            # Shown where the test fails.
            print(*command, *flags, code, err)
            after = snapshot(root)
            assert code in (0, 2, 130) and "bug" not in err
            check(layout, before, after, command, force, reads, named)
            layout.ours |= {name for name in after if after[name] != before.get(name)}
            before = after
