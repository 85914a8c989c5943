"""The command: help, output for people and for machines, every subcommand once."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import compress, tiny_recipe, write_recipe

COMMANDS = ("fuse", "finetune", "run", "plan", "inspect", "report", "evaluate", "bench", "export")


@pytest.fixture(scope="module")
def student(tmp_path_factory, vit_a, vit_b, image_folder):
    """A finished folder, without ONNX and latency."""
    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import build_recipe

    output = tmp_path_factory.mktemp("cli") / "student"
    run_recipe(build_recipe(tiny_recipe([vit_a, vit_b], image_folder, output)))
    return output


def test_help_lists_every_command(capsys):
    code, out, err = compress(capsys, "--help")
    assert (code, err) == (0, "")
    for name in COMMANDS:
        assert f" {name} " in out


def test_no_arguments_print_the_help(capsys):
    assert "Make a student" in compress(capsys)[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(capsys, name):
    code, out, err = compress(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert f"Example: compress {name}" in out


def test_brackets_in_the_help_are_no_markup(capsys):
    out = compress(capsys, "fuse", "--help-all")[1]
    assert "'compressor[tensorboard]'" in "".join(out.replace("│", "").split())
    assert "[default:0.5]" in "".join(out.replace("│", "").split()) and "[dim]" not in out


def test_the_help_names_every_word_that_a_flag_takes(capsys):
    from compressor.cli.options import FLAGS

    shown = " ".join(compress(capsys, "fuse", "--help-all")[1].replace("│", " ").split())
    rows = shown.split(" --")
    for name, flag in FLAGS.items():
        row = next((row for row in rows if row.startswith(name.removeprefix("--") + " ")), None)
        if row is not None:
            assert all(re.search(rf"\b{re.escape(word)}\b", row) for word in flag.words), row


def test_help_loads_nothing_heavy():
    check = (
        "import sys; from compressor.cli import run_command; run_command(['fuse', '--help']);"
        "heavy = {'torch', 'transformers', 'datasets', 'onnxruntime', 'sklearn'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_version(capsys):
    from compressor import __version__

    assert compress(capsys, "--version") == (0, f"compress {__version__}\n", "")


def test_fuse_prints_the_table_and_what_to_do_next(capsys, vit_a, vit_b, image_folder, tmp_path):
    output = tmp_path / "s"
    options = ["--samples", 16, "--steps", 2, "--batch-size", 4, "--no-latency", "--no-onnx"]
    code, out, err = compress(
        capsys, "fuse", "--width", 0.5, vit_a, vit_b, "--data", image_folder, "-o", output, *options
    )
    assert (code, err) == (0, "")
    for word in ("ensemble", "one-shot", "finetuned", "GMACs", f"written to {output}", "next: compress "):
        assert word in out
    assert f"page: {output}/report.html" in out
    assert (output / "report.html").is_file()


@pytest.mark.slow
def test_what_to_do_next_reads_the_data_in_the_same_way(capsys, bert, tmp_path):
    rows = "".join(f"good film {k},bad plot {k},{k % 2}\n" for k in range(24))
    (tmp_path / "rows.csv").write_text(f"zeta,kappa,label\n{rows}")
    how = ["--data", tmp_path / "rows.csv", "--text-column", "zeta,kappa", "--max-length", 8]
    quick = ["--samples", 8, "--no-finetune", "--no-latency", "--no-onnx"]
    code, out, err = compress(capsys, "fuse", bert, *how, "-o", tmp_path / "s", *quick)
    assert (code, err) == (0, "")
    assert f"--data {tmp_path}/rows.csv --text-column zeta,kappa --max-length 8 -o {tmp_path}/s-tuned" in out
    following = shlex.split(out.split("next: compress ")[1].splitlines()[0])
    assert "--prompt" not in following, "said though it holds anyway"
    code, _, err = compress(capsys, *following, "--steps", 1, "--no-latency", "--no-onnx")
    assert (code, err) == (0, "")


def test_a_finetune_that_does_harm_is_said_to(capsys, vit_a, image_folder, tmp_path):
    options = ["--samples", 16, "--steps", 4, "--batch-size", 4, "--learning-rate", 0.1, "--no-latency", "--no-onnx"]
    code, _, err = compress(capsys, "fuse", vit_a, "--data", image_folder, "-o", tmp_path / "s", *options)
    assert code == 0
    assert err.startswith("warning: the finetune took the student further from the ensemble") and err.count("\n") == 1


def test_an_output_that_cannot_be_is_refused(capsys, vit_a, image_folder, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = compress(
        capsys, "fuse", vit_a, "--data", image_folder, "-o", tmp_path / "file" / "s", "--steps", 1
    )
    assert (code, out) == (2, "")
    assert "cannot write" in err and err.count("\n") == 1


@pytest.mark.slow
def test_onnx_files_are_timed_as_what_they_read(capsys, vit_a, tmp_path):
    code, _, err = compress(capsys, "export", vit_a, "-o", tmp_path)
    assert (code, err) == (0, "")
    file = tmp_path / "onnx" / "model.onnx"
    code, out, err = compress(capsys, "bench", file, "--seconds", 0.1, "--json")
    assert (code, err) == (0, "")
    assert [row["length"] for row in json.loads(out)["results"]] == [None], "pictures have no length"
    code, _, err = compress(capsys, "bench", file, "--backends", "torch", "--seconds", 0.1)
    assert code == 2 and "is an ONNX file, which only the backend onnx times" in err


def test_fuse_says_what_it_costs_to_have_no_data(capsys, vit_a, tmp_path):
    code, out, err = compress(capsys, "fuse", vit_a, "-o", tmp_path / "s", "--no-latency", "--no-onnx")
    assert code == 0
    assert err.startswith("warning: no data: the weights alone were aligned")
    assert err.count("\n") == 1
    assert "accuracy" not in out.splitlines()[1]


def test_json_is_alone_on_stdout(capsys, vit_a, image_folder, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", tiny_recipe([vit_a], image_folder, tmp_path / "s"))
    code, out, err = compress(capsys, "run", recipe, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "s" / "report.json").read_text())


def test_flags_replace_what_the_recipe_says(capsys, vit_a, image_folder, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", tiny_recipe([vit_a], image_folder, tmp_path / "s"))
    code, out, _ = compress(capsys, "run", recipe, "--output", tmp_path / "t", "--seed", 3, "--json")
    assert code == 0
    assert json.loads(out)["recipe"]["seed"] == 3
    assert (tmp_path / "t").exists()
    assert not (tmp_path / "s").exists()


def test_finetune_leaves_the_student_alone(capsys, student, vit_a, vit_b, image_folder, tmp_path):
    before = (student / "model.safetensors").read_bytes()
    options = ["--steps", 2, "--batch-size", 4, "--no-latency", "--no-onnx", "-o", tmp_path / "tuned"]
    code, out, err = compress(capsys, "finetune", student, "-t", vit_a, "-t", vit_b, "--data", image_folder, *options)
    assert (code, err) == (0, "")
    assert "as given" in out
    assert (student / "model.safetensors").read_bytes() == before
    assert (tmp_path / "tuned" / "model.safetensors").read_bytes() != before


def test_a_search_says_what_it_chose(capsys, student, vit_a, image_folder, tmp_path):
    options = [
        "--learning-rate", "search", "--learning-rates", "1e-4, 10", "--search-steps", 1, "--distil-weight", 0,
        "--label-weight", 1, "--steps", 2, "--batch-size", 4, "--no-latency", "--no-onnx", "-o", tmp_path / "s",
    ]  # fmt: skip
    code, out, err = compress(capsys, "finetune", student, "-t", vit_a, "--data", image_folder, *options)
    # Whether two steps help on a single sample is luck.
    assert code == 0 and (not err or err.startswith("warning: the finetune did not help: kept the as given weights"))
    assert " on 1 held-out training sample" in out
    found = json.loads((tmp_path / "s" / "report.json").read_text())
    # Which one wins on a single sample is luck; it has to be the one with the least loss.
    best = min(found["finetune"]["search"], key=lambda trial: trial["validation_loss"])["learning_rate"]
    assert f"learning rate {best:g} is the best of 0.0001 (loss " in out
    assert found["recipe"]["finetune"]["learning_rates"] == [1e-4, 10.0]
    assert [trial["learning_rate"] for trial in found["finetune"]["search"]] == [1e-4, 10.0]
    assert found["finetune"]["learning_rate"] == best
    said = compress(capsys, "report", tmp_path / "s")[1]
    assert f"finetune: 2 steps at learning rate {best:g}, loss " in said
    assert f"learning rate {best:g} is the best of 0.0001 (loss " in said


def test_a_rate_that_diverged_is_shown_as_such():
    from compressor.report.summary import describe_choices

    tried = [
        {"learning_rate": rate, "validation_loss": loss} for rate, loss in ((1e-4, 0.5), (1e-3, 0.25), (1.0, None))
    ]
    finetune = {"steps": 1, "loss": [[1, 0.5]], "learning_rate": 1e-3, "search": tried, "validation_samples": 7}
    assert describe_choices({"finetune": finetune})[1] == (
        "learning rate 0.001 is the best of 0.0001 (loss 0.5), 0.001 (loss 0.25), 1 (diverged) "
        "on 7 held-out training samples"
    )


@pytest.mark.parametrize(
    ("best", "hint"),
    [
        (1e-4, "lowest one: --learning-rates 0.0001,3e-05 "),
        (1e-3, ""),
        (3e-3, "highest one: --learning-rates 0.003,0.009 "),
    ],
)
def test_a_search_that_ends_at_the_best_rate_says_how_to_go_further(best, hint):
    from compressor.report.describe import describe_search

    tried = [{"learning_rate": rate, "validation_loss": 0.2 + (rate != best)} for rate in (1e-4, 1e-3, 3e-3)]
    said = describe_search({"learning_rate": best, "search": tried, "validation_samples": 7})
    assert (hint in said) if hint else said.endswith("held-out training samples")


def test_plan(capsys, vit_a, vit_b):
    code, out, err = compress(capsys, "plan", vit_a, vit_b, "--width", 0.5)
    assert (code, err) == (0, "")
    for word in ("hidden_size", "GMACs", "0.5 asked, 0.5 given", "no weights were read"):
        assert word in out


def test_plan_of_a_text_model(capsys, bert):
    code, out, _ = compress(capsys, "plan", bert, "--json", "--length", 8)
    assert code == 0
    found = json.loads(out)
    assert found["target"]["fields"]["hidden_size"] == {"teacher": 16, "student": 8}
    assert found["length"] == 8


def test_plan_of_a_depth(capsys, vit_a):
    code, out, _ = compress(capsys, "plan", vit_a, "--depth", 0.5, "--json")
    assert code == 0
    found = json.loads(out)["target"]
    assert found["fields"]["num_hidden_layers"] == {"teacher": 2, "student": 1}
    assert found["asked_depth"] == 0.5
    code, _, err = compress(capsys, "plan", vit_a, "--depth", 3)
    assert (code, err.count("\n")) == (2, 1)
    assert "depth 3 of 2 layers is not possible" in err


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("t5", ["2 + 2 layers", "one order of heads in all layers"]),
        ("albert", ["1 layer, run 2 times", "24 of the embedding"]),
        ("mixtral", ["4 experts", "48 in each of 4 experts", "2 key–value groups", "rotary"]),
        ("bloom", ["heads have fixed positions"]),
        ("whisper", ["model.encoder.residual: norms can be folded", "model.decoder.residual: norms can be folded"]),
        ("clip-text", ["changes its output by at most"]),
    ],
)
def test_inspect_shows_what_is_special(capsys, tmp_path, family, words):
    from compressor.testing.tiny_configs import tiny_config

    tiny_config(family).save_pretrained(tmp_path)
    code, out, err = compress(capsys, "inspect", tmp_path)
    assert (code, err) == (0, "")
    for word in words:
        assert word in " ".join(out.split())


def test_inspect_collapses_the_layers(capsys, vit_a):
    code, out, err = compress(capsys, "inspect", vit_a)
    assert (code, err) == (0, "")
    assert "vit.layers.*.attention" in out
    assert "vit.layers.0" not in out
    assert "certificate holds" in out


def test_inspect_reads_no_weights(capsys, bert, tmp_path):
    shutil.copy(bert / "config.json", tmp_path)
    code, out, _ = compress(capsys, "inspect", tmp_path, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["error"] < 1e-5
    assert found["spaces"]["residual"]["size"] == 16


def test_report(capsys, student):
    code, out, err = compress(capsys, "report", student)
    assert (code, err) == (0, "")
    assert "ensemble" in out
    assert "width: 0.5 (0.5 asked for" in out
    assert json.loads(compress(capsys, "report", student, "--json")[1])["version"]
    assert compress(capsys, "report", student, "--markdown")[1].startswith("| model |")
    assert compress(capsys, "report", student, "--markdown", "--json")[0] == 2


def test_evaluate(capsys, student, vit_a, image_folder):
    code, out, err = compress(capsys, "evaluate", student, vit_a, "--data", image_folder, "--eval-samples", "all")
    assert (code, err) == (0, "")
    assert "±" in out
    rows = json.loads(compress(capsys, "evaluate", student, "--data", image_folder, "--json")[1])["rows"]
    assert rows[0]["samples"] == 12
    report = json.loads((student / "report.json").read_text())
    assert rows[0]["accuracy"] == report["table"][-1]["accuracy"]


def test_evaluate_an_ensemble(capsys, vit_a, vit_b, vit_wide, image_folder):
    """The last row is of the mean of the softmaxes, counted here by hand."""
    import torch

    from compressor.models.load import load_teacher
    from compressor.pipeline.data_splits import open_evaluation
    from compressor.recipe import build_recipe

    names = [str(vit_a), str(vit_b), str(vit_wide)]
    data = ("--data", image_folder, "--eval-samples", "all")
    code, out, err = compress(capsys, "evaluate", *names, "--ensemble", *data)
    assert (code, err) == (0, "")
    # One word for one thing: the ensemble is that of a run's teachers.
    assert "mean of the 3 above" in out and "ensemble" not in out
    found = json.loads(compress(capsys, "evaluate", *names, "--ensemble", *data, "--json")[1])["rows"]
    alone = json.loads(compress(capsys, "evaluate", *names, *data, "--json")[1])["rows"]
    assert found[:-1] == alone
    assert (found[-1]["name"], found[-1]["fingerprint"]) == ("mean of the 3 above", None)
    assert found[-1]["parameters"] == sum(row["parameters"] for row in alone)
    teachers = [load_teacher(name) for name in names]
    recipe = build_recipe({"teachers": names, "data": {"source": str(image_folder)}})
    hits = total = 0
    with torch.no_grad():
        for batch in open_evaluation(recipe, teachers[0].processor, teachers[0].spec):
            said = [one.model(pixel_values=batch["pixel_values"]).logits.softmax(-1) for one in teachers]
            hits += int((torch.stack(said).mean(0).argmax(-1) == batch["labels"]).sum())
            total += len(batch["labels"])
    assert (found[-1]["accuracy"], found[-1]["labelled"]) == (hits / total, total)


@pytest.mark.slow
def test_bench(capsys, student):
    code, out, err = compress(capsys, "bench", student, "--seconds", 0.02, "--batch-size", 2, "--no-onnx")
    assert (code, err) == (0, "")
    assert "torch ms" in out
    assert "ORT ms" not in out
    assert "first table: p50 / p95 of batches of 2\n" in out


@pytest.mark.slow
def test_bench_of_a_text_model(capsys, bert, forked_benchmark):
    code, out, _ = compress(
        capsys, "bench", bert, "--seconds", 0.02, "--batch-size", 1, "--length", 8, "--no-onnx", "--json"
    )
    assert code == 0
    assert json.loads(out)["table"][0]["macs"] > 0


@pytest.mark.slow
def test_export_notes_the_difference_in_the_report(capsys, student, tmp_path, forked_benchmark):
    folder = Path(shutil.copytree(student, tmp_path / "s"))
    code, out, err = compress(capsys, "export", folder)
    assert (code, err) == (0, "")
    assert "largest difference from torch" in out
    assert (folder / "onnx" / "model.onnx").exists()
    onnx = json.loads((folder / "report.json").read_text())["onnx"]
    assert onnx["largest_relative_difference"] <= 1e-4
    left = (folder / "onnx" / "model.onnx").stat().st_mtime_ns
    code, out, err = compress(capsys, "export", folder)
    assert (code, err) == (0, "") and "left" in out and "--force writes it anew" in out
    assert (folder / "onnx" / "model.onnx").stat().st_mtime_ns == left
    # ONNX Runtime then times that file.
    code, out, _ = compress(capsys, "bench", folder, "--seconds", 0.01, "--batch-size", 1, "--json")
    assert json.loads(out)["table"][0]["ort_p50_ms"] > 0


def test_an_export_names_every_file():
    from compressor.report.describe_formats import describe_export

    file = {"bytes": 2e6}
    exact = {
        "exact": True,
        "largest_relative_difference": 2e-6,
        "files": {"onnx/encoder_model.onnx": file, "onnx/decoder_model.onnx": file},
    }
    scores = {"accuracy": 0.5, "perplexity": None}
    data = {"samples": 9, "relative_error": 0.0123, "agreement": 0.99, **scores, "float": {**scores, "accuracy": 0.75}}
    int8 = {"exact": False, "files": {"onnx/model_quantized.onnx": file}, "evaluation": data}
    lines = describe_export({"folder": "s", "formats": {"onnx": exact, "onnx-int8": int8}, "report_updated": False})
    assert lines[:2] == [f"wrote s/onnx/{one}_model.onnx (onnx, 2.00 MB)" for one in ("encoder", "decoder")]
    assert "2.0e-06 of the largest value" in lines[2]
    assert "99.00 % of the predictions" in lines[-1] and "accuracy 50.00 % (float: 75.00 %), on 9 samples" in lines[-1]


@pytest.mark.slow
def test_export_fails_beyond_the_tolerance(capsys, student, tmp_path):
    folder = Path(shutil.copytree(student, tmp_path / "s"))
    code, out, err = compress(capsys, "export", folder, "--tolerance", 1e-12)
    assert (code, out) == (2, "")
    assert "more than the tolerance" in err
    assert not (folder / "onnx").exists()


def test_progress_is_drawn_for_somebody_who_looks():
    import io

    from rich.console import Console

    from compressor.report.progress import progress_bars

    drawn = io.StringIO()
    with progress_bars(Console(file=drawn, force_terminal=True, width=80), True) as tell:
        tell("load", None, "loading [a]")
        tell("fuse", 0.5, "fusing")
    assert "loading [a]" in drawn.getvalue()
    assert "fusing" in drawn.getvalue()
    with progress_bars(Console(file=drawn), False) as tell:
        assert tell is None


def test_scores_stay_on_the_lines_of_progress(vit_a, vit_b, image_folder, tmp_path):
    import io

    from command import tiny_recipe
    from rich.console import Console

    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import build_recipe
    from compressor.report.progress import progress_bars

    drawn, told = io.StringIO(), []
    values = tiny_recipe([vit_a, vit_b], image_folder, tmp_path / "s")
    with progress_bars(Console(file=drawn, force_terminal=True, width=100), True) as tell:
        report = run_recipe(build_recipe(values), progress=lambda *step: (told.append(step), tell(*step)))
    shown = {row["name"]: f"{row['name']} {100 * row['accuracy']:.1f} %" for row in report["table"]}
    finished = [line for line in drawn.getvalue().splitlines() if "✓" in line]
    for line in (f"{shown['a']}, {shown['b']}", shown["one-shot"], shown["finetuned"]):
        assert sum(f"{line}, {shown['ensemble']}" in one for one in finished) == 1
    steps = [line for stage, share, line in told if stage == "finetune" and share is not None]
    assert len(steps) == 4 and steps[0].endswith(f"; {shown['one-shot']}")
    assert [share for stage, share, line in told if line == "evaluating the teachers"] == [None, 1.0]


@pytest.mark.slow
def test_python_face(vit_a, vit_b, tmp_path, forked_benchmark):
    import torch

    import compressor

    batches = [{"pixel_values": torch.randn(4, 3, 16, 16)} for _ in range(4)]
    result = compressor.fuse([str(vit_a), str(vit_b)], width=0.5, calibration=batches)
    assert result.model.config.hidden_size == 16
    assert compressor.inspect(result.model).residual.size == 16
    assert compressor.export_onnx(result.model, tmp_path).parity.max_rel < 1e-3
    rows = compressor.benchmark([str(vit_a)], seconds=0.01, batch_size=1, onnx=False)
    assert rows[0].torch_p50_ms > 0
    with pytest.raises(compressor.errors.UserError, match="wdth"):
        compressor.fuse([str(vit_a)], wdth=1)


def test_models_that_were_just_built_are_taken_as_well_as_saved_ones():
    """transformers names a model's class in its config only when it saves it."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    import compressor

    config = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 64}
    models = [ViTForImageClassification(ViTConfig(**config, image_size=16, patch_size=8)) for _ in range(2)]
    assert compressor.inspect(models[0]).residual.size == 32
    result = compressor.fuse(models, width=0.5, calibration=[{"pixel_values": torch.randn(16, 3, 16, 16)}] * 2)
    assert result.model.config.hidden_size == 16


def test_losses_by_name_on_the_command_line(capsys, student, vit_a, vit_b, image_folder, tmp_path):
    from compressor.cli.parsing import parse_losses

    options = ["--steps", 2, "--batch-size", 4, "--no-latency", "--no-onnx", "--data", image_folder]
    teachers = ["-t", vit_a, "-t", vit_b]
    output = tmp_path / "s"
    code, _, err = compress(
        capsys, "finetune", student, *teachers, *options, "--losses", "hidden=0.5, relations=1", "-o", output
    )
    assert (code, err) == (0, "")
    found = json.loads((output / "report.json").read_text())["recipe"]["finetune"]["losses"]
    assert found == {"hidden": {"weight": 0.5, "decay": 1.0}, "relations": {"weight": 1.0, "decay": 1.0}}
    assert (output / "transport.npz").exists()
    assert (parse_losses("auto"), parse_losses("none")) == ("auto", {})
    for losses, said in (
        ("magic=1", "unknown loss 'magic' (known: hidden, labels, logits, relations)"),
        ("hidden=-1", "--losses: input should be greater than or equal to 0, not '-1'"),
        ("hidden", "--losses: input should be a valid number"),
    ):
        code, out, err = compress(capsys, "finetune", student, *teachers, *options, "--losses", losses, "-o", "x")
        assert (code, out) == (2, "") and err.startswith(f"error: {said}") and err.count("\n") == 1
    code, _, err = compress(capsys, "finetune", vit_a, "-t", vit_b, *options, "--losses", "hidden=1", "-o", "x")
    assert code == 2 and "keeps no transport from these teachers" in err


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_are_broken_between_words_on_a_terminal_alone(monkeypatch, terminal):
    from compressor.cli.console import print_notes, print_results

    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr("sys.stdout", stream := Stream())
    monkeypatch.setattr("sys.stderr", notes := Stream())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    prose, command = "shapes: " + "eight heads of four, " * 12, "next: compress evaluate " + "student/of/teachers " * 12
    print_results(prose, command)
    lines = stream.getvalue().splitlines()
    assert lines[-1] == command
    assert " ".join(line.strip() for line in lines[:-1]) == prose.strip()
    assert (len(lines) > 2) == terminal and (max(map(len, lines[:-1])) <= 80) == terminal
    print_notes([prose, "[a] :dog:"], "warning")
    *lines, last = notes.getvalue().splitlines()
    assert last == "warning: [a] :dog:" and " ".join(map(str.strip, lines)) == f"warning: {prose}".strip()
    assert (max(map(len, lines)) <= 80) == terminal
