"""Whatever a user gets wrong: one clear line, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from command import STAGE, compress, tiny_recipe, write_recipe
from forked import compress_forked, fork_command
from tiny import CLASSES, save_images, save_vit
from tiny_text import save_plain, save_sentences, save_text_model


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(capsys, here, *arguments, said, code=2):
    """Run a command that must be refused; the line that it says."""
    before = sorted(here.rglob("*"))
    given, out, err = compress(capsys, *arguments)
    assert given == code, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert said in err
    assert sorted(here.rglob("*")) == before
    return err


def copied(folder, target):
    shutil.copytree(folder, target)
    return target


# Names and folders


def test_unknown_name(capsys, here, vit_a):
    refused(capsys, here, "fuse", vit_a, "no-such-model", said="no model 'no-such-model'")


def test_missing_folder(capsys, here):
    refused(capsys, here, "fuse", "./missing", said="./missing")


def test_a_file_for_a_folder(capsys, here):
    Path("model.bin").touch()
    refused(capsys, here, "fuse", "model.bin", said="model.bin is a file")


def test_folder_without_weights(capsys, here, vit_a):
    bare = copied(vit_a, here / "bare")
    (bare / "model.safetensors").unlink()
    refused(capsys, here, "fuse", "bare", said="no weights in bare")


def test_truncated_safetensors(capsys, here, vit_a):
    broken = copied(vit_a, here / "broken") / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    refused(capsys, here, "fuse", "broken", said="broken")


def test_config_that_does_not_match_the_weights(capsys, here, vit_a):
    path = copied(vit_a, here / "odd") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 96}))
    refused(capsys, here, "fuse", "odd", said="does not match its weights")


# Teachers that are no ensemble


def test_other_type(capsys, here, vit_a, bert):
    refused(capsys, here, "fuse", vit_a, bert, said="model type")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": (*CLASSES, "owl")}, "has owl, which"),
        ({"classes": tuple(f"LABEL_{index}" for index in range(5))}, "have no names to match"),
        ({"image_size": 24}, "image size"),
        ({"mean": (0.1, 0.1, 0.1)}, "preprocessor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_teachers_that_differ(capsys, here, vit_a, tmp_path, options, said):
    other = save_vit(tmp_path / "other", seed=3, **options)
    refused(capsys, here, "fuse", vit_a, other, said=said)


# Text


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Tiny text models and data for them, away from the working folder."""
    root = tmp_path_factory.mktemp("texts")
    for kind in ("classifier", "masked", "decoder", "features", "bart", "tagger"):
        save_text_model(root / kind, kind)
    save_text_model(root / "mute", "classifier", with_tokenizer=False)
    save_sentences(root / "sst")
    save_plain(root / "plain.txt")
    return root


@pytest.mark.parametrize(
    ("model", "name", "content", "said"),
    [
        ("classifier", "a.csv", "x,y\n1,2\n3,4\n", "neither an image nor a text column"),
        ("classifier", "a.csv", "text,label\ngood,fine\nbad,fine\nbad,fine\n", "'fine' is not one of the model's"),
        ("classifier", "a.tsv", "good film\t7\nbad film\t0\nbad\t1\n", "label 7 is out of range"),
        ("tagger", "a.csv", "text,label\ngood,0\nbad,1\n", "no column of lists of words"),
        ("bart", "a.csv", "x,y\na,b\nc,d\n", "--target-column"),
        ("decoder", "a.txt", "", "is empty"),
        ("decoder", "a.txt", "\n" * 20, "too few for one block"),
        ("decoder", "a.txt", "the good film\n" * 4, "too few for one block"),
        ("masked", "a.csv", "x,y\n1,2\n", "neither an image nor a text column"),
        ("classifier", "a.pdf", "%PDF", "known formats are"),
    ],
)
def test_text_that_does_not_fit(capsys, here, texts, model, name, content, said):
    Path(name).write_text(content)
    for command in ("fuse", "evaluate"):
        refused(capsys, here, command, texts / model, "--data", name, said=said)


def test_images_for_a_text_model(capsys, here, texts, image_folder):
    refused(
        capsys, here, "fuse", texts / "classifier", "--data", image_folder, said="holds images, but the teacher reads"
    )


def test_text_for_an_image_model(capsys, here, texts, vit_a):
    refused(capsys, here, "fuse", vit_a, "--data", texts / "sst", said="holds text, but the teacher reads images")


def test_text_columns_that_are_not_there(capsys, here, texts):
    said = "has no text column 'words'"
    refused(capsys, here, "fuse", texts / "classifier", "--data", texts / "sst", "--text-column", "words", said=said)


def test_a_teacher_without_a_tokenizer(capsys, here, texts):
    refused(capsys, here, "fuse", texts / "mute", "--data", texts / "sst", said="the teacher has no tokenizer")


def test_a_model_without_a_head_has_nothing_to_learn_or_to_measure(capsys, here, texts):
    data = ("--data", texts / "plain.txt")
    refused(capsys, here, "evaluate", texts / "features", *data, said="evaluating needs a head")
    refused(
        capsys, here, "finetune", texts / "features", "-t", texts / "features", *data, said="finetuning needs a head"
    )


def test_evaluating_text_without_labels(capsys, here, texts):
    refused(capsys, here, "evaluate", texts / "classifier", "--data", texts / "plain.txt", said="has no labels")


@pytest.mark.parametrize("depth", ["0", "1.5", "-1", "deep", "nan"])
def test_depth_that_is_neither_share_nor_number(capsys, here, vit_a, depth):
    refused(capsys, here, "fuse", vit_a, f"--depth={depth}", said="--depth: a depth is a share above 0")


# Widths


@pytest.mark.parametrize("width", ["0", "-0.5", "1.5", "nan", "inf"])
def test_width_that_is_no_share(capsys, here, vit_a, width):
    refused(capsys, here, "fuse", vit_a, "--width", width, said="--width: a width must be above 0 and at most 1")


def test_width_that_is_no_number(capsys, here, vit_a):
    refused(capsys, here, "fuse", vit_a, "--width", "half", said="--width")


@pytest.mark.parametrize("command", ["fuse", "plan"])
def test_width_that_leaves_no_head(capsys, here, vit_a, command):
    refused(capsys, here, command, vit_a, "--width", "0.05", said="width 0.05 leaves none of the 4 attention heads")


# Output


def test_output_that_exists(capsys, here, vit_a):
    (here / "student").mkdir()
    (here / "student" / "precious").touch()
    refused(capsys, here, "fuse", vit_a, said="exists already")


def test_output_that_cannot_be_made(capsys, here, vit_a):
    Path("file").touch()
    refused(capsys, here, "fuse", vit_a, "-o", "file/student", said="file/student")


def test_an_interrupted_run_is_not_lost(capsys, here, vit_a):
    (here / "student.work").mkdir()
    refused(capsys, here, "fuse", vit_a, said="is not the work of an interrupted run")
    (here / "student.work" / ".compressor-work").touch()
    refused(capsys, here, "fuse", vit_a, said="--resume")


def test_unknown_device(capsys, here, vit_a):
    refused(capsys, here, "fuse", vit_a, "--device", "abacus", said="no device 'abacus'")


# Data


def test_data_that_does_not_exist(capsys, here, vit_a):
    refused(capsys, here, "fuse", vit_a, "--data", "./nothing", said="no data at ./nothing")


def test_unreadable_data(capsys, here, vit_a):
    Path("data.parquet").write_bytes(b"PAR1 this is no parquet file PAR1")
    refused(capsys, here, "fuse", vit_a, "--data", "data.parquet", said="cannot read data.parquet")


def test_data_without_images(capsys, here, vit_a):
    Path("empty").mkdir()
    refused(capsys, here, "fuse", vit_a, "--data", "empty", said="no data in empty")


@pytest.mark.parametrize("split", ["train", "test"])
def test_corrupt_image(capsys, here, vit_a, split):
    save_images(here / "images" / "train", per_class=3)
    save_images(here / "images" / "test", per_class=2)
    broken = here / "images" / split / CLASSES[1] / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    refused(capsys, here, "fuse", vit_a, "--data", "images", said="cannot read the image of")


def test_wrong_column(capsys, here, vit_a, image_folder):
    refused(capsys, here, "fuse", vit_a, "--data", image_folder, "--image-column", "photo", said="'photo'")


def test_labels_out_of_range(capsys, here, vit_a, image_folder):
    image = next(image_folder.rglob("*.png"))
    Path("data.csv").write_text("image,label\n" + "".join(f"{image},{label}\n" for label in (0, 1, 2, 3, 4)))
    refused(capsys, here, "fuse", vit_a, "--data", "data.csv", said="label 4 is out of range")


def test_evaluating_without_labels(capsys, here, vit_a, image_folder):
    Path("data.csv").write_text("image,width\n" + "".join(f"{image},16\n" for image in image_folder.rglob("*.png")))
    refused(capsys, here, "evaluate", vit_a, "--data", "data.csv", said="has no labels")


def test_an_ensemble_that_is_none(capsys, here, vit_a, bert, image_folder):
    data = ("--ensemble", "--data", image_folder)
    refused(capsys, here, "evaluate", vit_a, *data, said="an ensemble is of two models or more")
    said = refused(capsys, here, "evaluate", vit_a, bert, *data, said="vit")
    assert "bert" in said


def test_evaluating_without_data(capsys, here, vit_a):
    refused(capsys, here, "evaluate", vit_a, said="--data")


def test_learning_from_labels_that_are_not_there(capsys, here, vit_a, image_folder):
    Path("data.csv").write_text("image,width\n" + "".join(f"{image},16\n" for image in image_folder.rglob("*.png")))
    options = ("--distil-weight", 0, "--label-weight", 1)
    refused(capsys, here, "fuse", vit_a, "--data", "data.csv", *options, said="has no labels")


def test_finetuning_without_data(capsys, here, vit_a):
    refused(capsys, here, "finetune", vit_a, "-t", vit_a, said="finetuning needs data")


# Recipes and usage


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teachers: [a]\nwdth: 0.5", "unknown key 'wdth'"),
        ("teachers: [a]\nfinetune: {steps: many}", "finetune.steps"),
        ("teachers: [a", "is not YAML"),
    ],
)
def test_recipe(capsys, here, text, said):
    Path("recipe.yaml").write_text(text)
    refused(capsys, here, "run", "recipe.yaml", said=said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fuse"], "TEACHERS"),
        (["fly"], "No such command 'fly'"),
        (["fuse", "a", "--wide", "1"], "--wide"),
        (["run", "missing.yaml"], "no recipe at missing.yaml"),
        (["report", "missing"], "no report.json in missing"),
        (["fuse", "a", "--eval-samples", "few"], "--eval-samples"),
        (["export", "vit-a"], "--output"),
        (["fuse", "a", "--learning-rate", "-1"], "--learning-rate: "),
        (["fuse", "a", "--learning-rate", "quick"], "--learning-rate: "),
        (["fuse", "a", "--learning-rates", "1e-3"], "add --learning-rate search"),
        (["finetune", "a", "-t", "b", "--learning-rate", "1e-3", "--search-steps", "5"], "add --learning-rate search"),
        (["fuse", "a", "--learning-rate", "search", "--learning-rates", "1e-3,0"], "--learning-rates: "),
        (["fuse", "a", "--learning-rate", "search", "--learning-rates", "1e-3,nan"], "--learning-rates: "),
        (["fuse", "a", "--learning-rate", "search", "--learning-rates", "slow"], "--learning-rates: "),
        (["fuse", "a", "--learning-rate", "search", "--search-steps", "0"], "--search-steps: "),
        (["fuse", "a", "--distil-weight", "-1"], "--distil-weight: "),
        (["fuse", "a", "--distil-weight", "0"], "nothing to learn from"),
    ],
)
def test_usage(capsys, here, arguments, said):
    refused(capsys, here, *arguments, said=said)


@pytest.mark.parametrize("options", [["--residual", "magic"], ["--inner", "magic"], ["--cost", "magic"]])
def test_unknown_choice(capsys, here, vit_a, vit_b, image_folder, options):
    refused(capsys, here, "fuse", vit_a, vit_b, "--data", image_folder, *options, said="magic")


# A full disk


def test_no_space_left_for_the_student(capsys, here, vit_a, image_folder, monkeypatch):
    from compressor.pipeline.run import output as run_output

    def save(folder, *rest, **options):
        Path(folder, "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_output, "save_student", save)
    recipe = write_recipe(here / "r.yaml", tiny_recipe([vit_a], image_folder, "student", finetune={"enabled": False}))
    refused(capsys, here, "run", recipe, said="no space left on the device to write to student")


def test_no_space_left_for_a_checkpoint(capsys, here, vit_a, image_folder, monkeypatch):
    from compressor.distillation import distill as trainer

    def distill(*arguments, **options):
        raise RuntimeError("[enforce fail at inline_container.cc:666] . PytorchStreamWriter failed writing file data/0")

    monkeypatch.setattr(trainer, "train_student", distill)
    recipe = write_recipe(here / "r.yaml", tiny_recipe([vit_a], image_folder, "student"))
    refused(capsys, here, "run", recipe, said="no space left on the device to write to")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a forked process")
def test_files_that_may_not_grow(here, vit_a, image_folder, capfd):
    """The same, met by the libraries themselves."""
    import resource

    recipe = write_recipe(here / "r.yaml", tiny_recipe([vit_a], image_folder, "student", finetune={"enabled": False}))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

    code, _, said = compress_forked(capfd, "run", recipe, prepare=limit)
    assert code == 2, said
    assert said == "error: no space left on the device to write to student: free some, or choose another place\n"
    assert sorted(path.name for path in here.iterdir()) == ["r.yaml"]


# Interruption


def test_a_bug_is_called_a_bug(capsys, here, vit_a, monkeypatch):
    from compressor.pipeline.run import context as run_context

    def prepare(*arguments, **options):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(run_context, "preflight", prepare)
    line = refused(capsys, here, "fuse", vit_a, said="ZeroDivisionError: oh", code=1)
    assert "--debug" in line
    code, _, err = compress(capsys, "fuse", vit_a, "--debug")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half_written_and_the_finetune_resumes(capfd, here, vit_a, vit_b, image_folder):
    steps = {"steps": 80, "batch_size": 4, "checkpoint_every": 10}
    values = tiny_recipe([vit_a, vit_b], image_folder, "student", finetune=steps)
    recipe = write_recipe(here / "r.yaml", values)
    running = fork_command("run", recipe)
    deadline = time.monotonic() + 120
    while not list(here.glob("student.work/checkpoints/checkpoint-*/finished")):
        assert running.is_alive(), capfd.readouterr()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGINT)
    running.join(60)
    out, err = capfd.readouterr()
    err = STAGE.sub("", err)
    assert running.exitcode == 130, err
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("interrupted: student was not written")
    assert "--resume" in err
    assert sorted(path.name for path in here.iterdir()) == ["r.yaml", "student.work"]

    refused(capfd, here, "run", recipe, said="--resume")
    code, _, err = compress(capfd, "run", recipe, "--resume")
    assert code == 0, err
    resumed = json.loads((here / "student" / "report.json").read_text())
    assert resumed["finetune"]["resumed_from"] >= 10
    assert not (here / "student.work").exists()

    code, _, err = compress(capfd, "run", recipe, "--output", "straight")
    assert code == 0, err
    straight = json.loads((here / "straight" / "report.json").read_text())
    assert straight["finetune"]["resumed_from"] is None
    assert straight["student"] == resumed["student"]


def test_resuming_with_other_options_is_refused(capsys, here, vit_a, image_folder, monkeypatch):
    from compressor.distillation import distill as trainer

    def distill(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "train_student", distill)
        recipe = write_recipe(here / "r.yaml", tiny_recipe([vit_a], image_folder, "student"))
        code, _, err = compress(capsys, "run", recipe)
    assert code == 130
    assert "--resume" in err
    refused(capsys, here, "run", recipe, "--resume", "--seed", "5", said="another seed")


@pytest.mark.slow
def test_an_interrupted_search_resumes(capsys, here, vit_a, image_folder, monkeypatch):
    from compressor.distillation.training import TrainingConfig

    search = {"learning_rate": "search", "learning_rates": [1e-3, 1e-2], "search_steps": 2}
    recipe = write_recipe(here / "r.yaml", tiny_recipe([vit_a], image_folder, "student", finetune=search))
    run, trainings = TrainingConfig.run, []

    def interrupted(*arguments):
        trainings.append(arguments)
        if len(trainings) == 2:
            raise KeyboardInterrupt
        return run(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingConfig, "run", interrupted)
        code, _, err = compress(capsys, "run", recipe)
    assert code == 130
    assert "--resume" in err
    assert compress(capsys, "run", recipe, "--resume")[0] == 0
    assert compress(capsys, "run", recipe, "--output", "straight")[0] == 0
    resumed, straight = (json.loads((here / name / "report.json").read_text()) for name in ("student", "straight"))
    assert (resumed["finetune"]["resumed_from"], straight["finetune"]["resumed_from"]) == (2, None)
    assert resumed["student"] == straight["student"]
    assert resumed["finetune"]["search"] == straight["finetune"]["search"]
    assert len(straight["finetune"]["search"]) == 2


def test_a_file_beyond_the_tolerance_does_not_cost_the_student(capsys, here, vit_a, image_folder):
    export = {"onnx": True, "tolerance": 1e-12}
    recipe = tiny_recipe([vit_a], image_folder, "s", finetune={"enabled": False}, export=export)
    code, out, err = compress(capsys, "run", write_recipe(here / "r.yaml", recipe), "--quiet")
    assert (code, out) == (2, "")
    assert "s was written, but no exported file, since onnx/model.onnx differs from torch by" in err
    assert "compress report s" in err and str(here) not in err
    assert Path("s/model.safetensors").is_file() and Path("s/report.html").is_file() and not Path("s/onnx").exists()
    assert not list(here.glob("*.work"))
    report = json.loads(Path("s/report.json").read_text())
    assert report["onnx"] is None and any("more than the tolerance" in note for note in report["notes"])
    assert compress(capsys, "report", "s")[0] == 0
