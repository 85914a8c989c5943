"""That every format is the model, or says how far from it it is."""

import json
import math
import re
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from command import compress, tiny_recipe
from test_export import bert, built, mistral, run, t5, vit, written

from compressor.bench.accuracy import measure_deployed
from compressor.errors import UnsupportedError, UserError
from compressor.export import onnx as exporter
from compressor.export.file_kinds import INT8, files_of
from compressor.export.formats import EXPORT_FORMATS, check_formats
from compressor.export.parity_cases import logits_of_files
from compressor.export.write import write_formats
from compressor.models.inputs import dummy_inputs
from compressor.models.tasks.table import find_task
from compressor.pipeline.deliver import Delivery
from compressor.pipeline.export import _report_changes
from compressor.recipe import ExportOptions, build_recipe
from compressor.report.onnx_example import onnx_example


def pixels(count=4, seed=0):
    return [dummy_inputs(vit().config, 8, seed=seed + index) for index in range(count)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image model in every format, and its folder."""
    model, folder = vit(), tmp_path_factory.mktemp("formats")
    return model, write_formats(EXPORT_FORMATS.names(), model, folder, ExportOptions(), calibration=pixels()), folder


@pytest.fixture
def traced(images, monkeypatch):
    """Exports of such models copy the file that there is, as tracing takes long."""
    path = images[1]["onnx"].report.path
    monkeypatch.setattr(exporter, "_export", lambda graph, target: shutil.copy(path, target))


class TestFormats:
    def test_names_and_places(self, images):
        _, found, folder = images
        assert tuple(found) == EXPORT_FORMATS.names()
        assert EXPORT_FORMATS.names() == (
            "onnx", "onnx-int8", "onnx-int8-dynamic", "onnx-uint8", "onnx-int4", "onnx-fp16", "torch-export",
            "safetensors-bf16", "safetensors-fp16",
        )  # fmt: skip
        assert written(folder) == [
            "config.json", "model.onnx", "model_fp16.onnx", "model_int8_dynamic.onnx", "model_q4.onnx",
            "model_quantized.onnx", "model_uint8.onnx",
        ]  # fmt: skip
        assert sorted(path.name for path in folder.iterdir()) == ["bfloat16", "float16", "onnx", "torch"]
        assert sorted(path.name for path in (folder / "float16").iterdir()) == ["config.json", "model.safetensors"]
        for one in found.values():
            (file,) = one.report.files
            assert file.path.is_file() and file.bytes == file.path.stat().st_size
            assert (file.inputs, file.outputs) == (("pixel_values",), ("logits",))

    def test_exact_formats_are_held_to_the_tolerance(self, images, traced):
        _, found, _ = images
        for name in ("onnx", "torch-export"):
            parity = found[name].report.parity
            assert parity.max_rel <= parity.tolerance == 1e-4 and parity.agreement == 1.0
        with pytest.raises(UserError, match="more than the tolerance"):
            write_formats(["onnx"], vit(), images[2] / "no", ExportOptions(tolerance=1e-12), batch_sizes=(2,))
        assert not (images[2] / "no").exists()

    def test_other_formats_say_how_far_they_are(self, images):
        _, found, _ = images
        half, int8 = found["onnx-fp16"].report.parity, found["onnx-int8"].report.parity
        assert 0 < half.error < 5e-3 < int8.error < 0.3
        assert {case.batch for case in int8.cases} == {1, 2, 5}
        assert half.error < found["onnx-int8-dynamic"].report.parity.error < 0.3
        assert half.error < found["onnx-uint8"].report.parity.error < 0.3
        assert half.error < found["onnx-int4"].report.parity.error < 0.5

    def test_weights_are_what_they_are_called(self, images):
        import onnx

        _, found, _ = images
        types = {
            name: {t.data_type for t in onnx.load(one.report.path).graph.initializer}
            for name, one in found.items()
            if name.startswith("onnx")
        }
        assert onnx.TensorProto.INT8 in types["onnx-int8"] and onnx.TensorProto.INT8 in types["onnx-int8-dynamic"]
        kinds = {name: {n.op_type for n in onnx.load(found[name].report.path).graph.node} for name in types}
        # One has ranges in it, the other takes them of what it is given, and leaves the convolution as it is.
        assert "QuantizeLinear" in kinds["onnx-int8"] and "DynamicQuantizeLinear" not in kinds["onnx-int8"]
        assert {"DynamicQuantizeLinear", "MatMulInteger", "Conv"} <= kinds["onnx-int8-dynamic"]
        assert {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"} <= kinds["onnx-uint8"]
        # Six products with weights of one layer; those of attention have none.
        nodes = onnx.load(found["onnx-int4"].report.path).graph.node
        blocks = [onnx.helper.get_node_attr_value(n, "block_size") for n in nodes if n.op_type == "MatMulNBits"]
        assert blocks == [32] * 6 and "MatMul" in kinds["onnx-int4"]
        assert onnx.TensorProto.FLOAT16 in types["onnx-fp16"] and onnx.TensorProto.FLOAT not in types["onnx-fp16"]
        graph = onnx.load(found["onnx-fp16"].report.path).graph
        assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}

    @pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
    def test_transformers_loads_folders_of_half_weights(self, images, name, dtype):
        from transformers import AutoModelForImageClassification

        model, found, _ = images
        report = found[f"safetensors-{name}"].report
        loaded = AutoModelForImageClassification.from_pretrained(report.path.parent, dtype="auto")
        assert loaded.dtype == dtype and 0 < report.parity.error < (0.05 if name == "bf16" else 0.01)
        weights = sum(value.numel() for value in model.state_dict().values())
        assert 2 * weights < report.bytes < 2 * weights + 20_000
        assert model.dtype == torch.float32

    def test_an_overflow_of_float16_is_refused(self, tmp_path):
        model = vit()
        with torch.no_grad():
            model.vit.layernorm.weight.fill_(60_000.0)
        told = []
        found = write_formats(
            ["safetensors-fp16", "safetensors-bf16"], model, tmp_path, ExportOptions(), batch_sizes=(1,),
            on_unsupported=lambda name, error: told.append(str(error)),
        )  # fmt: skip
        assert list(found) == ["safetensors-bf16"] and [path.name for path in tmp_path.iterdir()] == ["bfloat16"]
        assert "gives logits that are not finite" in told[0] and "safetensors-bf16 has the range" in told[0]

    def test_a_program_is_run_by_torch_alone(self, images):
        model, found, _ = images
        inputs = dummy_inputs(model.config, 7)
        given = torch.export.load(found["torch-export"].report.path).module()(inputs)
        with torch.no_grad():
            torch.testing.assert_close(given["logits"], model(**inputs).logits)

    def test_a_new_float_file_ends_what_was_made_of_another(self, images, traced, tmp_path):
        shutil.copytree(images[2], tmp_path / "s")
        write_formats(["onnx-fp16"], vit(), tmp_path / "s", ExportOptions(), batch_sizes=(1,))
        assert "model_quantized.onnx" in written(tmp_path / "s")
        write_formats(["onnx"], vit(), tmp_path / "s", ExportOptions(), batch_sizes=(1,))
        assert written(tmp_path / "s") == ["config.json", "model.onnx"]
        assert not list((tmp_path / "s" / "torch").iterdir())

    def test_image_models_need_samples_for_int8(self):
        with pytest.raises(UserError, match=r"onnx-int8 .* --data"):
            check_formats(["onnx", "onnx-int8"], vit().config, data=False)
        check_formats(["onnx-int8-dynamic"], vit().config, data=False)
        check_formats(["onnx-int8"], bert().config, data=False)
        with pytest.raises(UserError, match=r"unknown export format 'int4'.*known: onnx, onnx-int8"):
            check_formats(["int4"], vit().config, data=True)

    def test_another_way_to_calibrate(self, traced, tmp_path, capfd):
        options = ExportOptions.model_validate({"int8": {"calibration": "percentile", "reduce_range": True}})
        found = write_formats(["onnx-int8"], vit(), tmp_path, options, calibration=pixels(2), batch_sizes=(2,))
        assert found["onnx-int8"].report.parity.error < 0.5
        assert capfd.readouterr() == ("", "")

    def test_a_program_is_of_the_whole_model(self, tmp_path):
        found = write_formats(["torch-export"], mistral(), tmp_path, ExportOptions(), batch_sizes=(2,))
        assert [file.path.name for file in found["torch-export"].report.files] == ["model.pt2"]
        assert [kind.named(INT8) for kind in files_of(mistral())] == ["model_quantized.onnx"]

    def test_what_a_format_cannot_express_is_told_or_raised(self, tmp_path):
        told = []
        found = write_formats(
            ["torch-export"],
            t5(),
            tmp_path / "s",
            ExportOptions(),
            on_unsupported=lambda name, error: told.append(str(error)),
        )
        assert found == {} and not (tmp_path / "s").exists()
        assert told == ["torch-export of T5ForConditionalGeneration is not supported: it has no whole model"]
        with pytest.raises(UnsupportedError, match="no whole model"):
            write_formats(["torch-export"], t5(), tmp_path, ExportOptions())

    def test_answers_of_an_encoder_and_its_decoder(self):
        from compressor.export.two_part_graphs import DecoderGraph, EncoderGraph

        class File:
            def __init__(self, graph):
                self.graph = graph

            def run(self, values):
                return self.graph.call(values)

        model = t5()
        inputs = dummy_inputs(model.config, 2)
        files = {
            "encoder_model.onnx": File(EncoderGraph(model)),
            "decoder_model.onnx": File(DecoderGraph(model, False)),
        }
        torch.testing.assert_close(
            logits_of_files(files, find_task(model.config), inputs), model(**inputs, use_cache=False).logits
        )


class TestOnData:
    def test_what_files_are_worth_beside_the_model(self, images):
        model, found, _ = images
        batches = [{**batch, "labels": torch.arange(8) % 3} for batch in pixels(3, seed=50)]
        task = find_task(model.config)
        files = {name: partial(logits_of_files, each.files, task) for name, each in found.items()}
        own, scores = measure_deployed(model, files, batches)
        with torch.no_grad():
            logits = torch.cat([model(pixel_values=batch["pixel_values"]).logits for batch in batches])
        said = torch.cat(
            [run(found["onnx-int8"].report.path, pixel_values=b["pixel_values"])["logits"] for b in batches]
        )
        labels = torch.cat([batch["labels"] for batch in batches])
        assert own.accuracy == pytest.approx(float((logits.argmax(-1) == labels).float().mean()))
        int8 = scores["onnx-int8"]
        assert int8.score.accuracy == pytest.approx(float((said.argmax(-1) == labels).float().mean()))
        assert int8.agreement == pytest.approx(float((said.argmax(-1) == logits.argmax(-1)).float().mean()))
        centred = logits - logits.mean(-1, keepdim=True)
        wanted = float((said - said.mean(-1, keepdim=True) - centred).norm() / centred.norm())
        assert int8.error == pytest.approx(wanted, rel=1e-3)
        assert scores["onnx"].agreement == 1.0 and scores["onnx"].error < 1e-5
        assert scores["onnx"].score.kl < scores["onnx-int8"].score.kl


class TestRecipe:
    def test_formats_and_the_switch(self):
        assert build_recipe({"teachers": ["a"]}).export.wanted == ("onnx",)
        off = build_recipe({"teachers": ["a"], "export": {"onnx": False}}).export
        assert off.wanted == ()
        some = build_recipe({"teachers": ["a"], "export": {"onnx": False, "formats": ["torch-export", "onnx"]}}).export
        assert some.wanted == ("torch-export",)
        with pytest.raises(UserError, match="onnx is off, but formats names onnx-int8"):
            build_recipe({"teachers": ["a"], "export": {"onnx": False, "formats": ["onnx-int8"]}})
        assert build_recipe({"teachers": ["a"], "export": {"formats": "onnx-fp16"}}).export.formats == ("onnx-fp16",)

    def test_the_flag(self):
        from compressor.cli.options import to_recipe

        recipe = to_recipe({"--teachers": ("a",), "--formats": "onnx, onnx-int8"})
        assert recipe.export.formats == ("onnx", "onnx-int8")


def ran_alone(folder, example, *arguments):
    """What the example prints where torch and transformers cannot be imported."""
    bars = "import sys\nfor name in ('torch', 'transformers', 'compressor'):\n    sys.modules[name] = None\n"
    (folder / "example.py").write_text(bars + example)
    done = subprocess.run([sys.executable, "example.py", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_run_writes_and_measures_formats_and_its_card_has_a_program_that_runs(vit_a, image_folder, tmp_path):
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from compressor.pipeline.run.run import run_recipe as job
    from compressor.report.summary import summary_lines

    export = {"onnx": True, "formats": ["onnx", "onnx-int8", "torch-export"]}
    report = job(
        build_recipe(tiny_recipe([vit_a], image_folder, tmp_path / "s", export=export, finetune={"enabled": False}))
    )
    found = report["formats"]["onnx-int8"]
    assert found["evaluation"]["samples"] == 12 and 0 <= found["evaluation"]["accuracy"] <= 1
    assert found["evaluation"]["float"]["accuracy"] == report["table"][-1]["accuracy"]
    assert math.isfinite(found["evaluation"]["relative_error"])
    assert json.loads((tmp_path / "s" / "report.json").read_text())["formats"].keys() == set(export["formats"])
    card = (tmp_path / "s" / "README.md").read_text()
    assert "| onnx-int8 | `onnx/model_quantized.onnx` |" in card
    assert any("onnx/model.onnx, onnx/model_quantized.onnx" in line for line in summary_lines(report))
    assert sum(line.startswith("torch-export: largest difference from torch ") for line in summary_lines(report)) == 1
    assert "Save it as `example.py` in this folder; it also needs numpy and pillow: `python example.py " in card
    example = card.split("onnxruntime alone")[1].split("```python\n")[1].split("```")[0]
    assert len(example.splitlines()) <= 10
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    picture.save(tmp_path / "s" / "picture.png")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "s")
    given = AutoImageProcessor.from_pretrained(tmp_path / "s")(picture, return_tensors="pt")
    said = model.config.id2label[int(model(**given).logits.argmax())]
    assert ran_alone(tmp_path / "s", example, "picture.png") == said
    program = card.split("with torch alone")[1].split("```python\n")[1].split("```")[0]
    told: dict = dict(given)
    exec(program.replace('"torch/', f'"{tmp_path}/s/torch/'), told)
    assert torch.allclose(told["logits"], model(**given).logits, atol=1e-5)


@pytest.mark.slow
def test_the_text_example(bert, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    code, out, err = compress(capsys, "export", bert, "-o", tmp_path, "--formats", "onnx,onnx-int8")
    assert (code, err) == (0, "") and re.search(r"onnx-int8: [\d.]+ MB, relative error", out)
    code, _, err = compress(capsys, "export", bert, "-o", tmp_path, "--formats", "onnx-int8")
    assert code == 2 and "model_quantized.onnx exists already, and no report.json says that it is of this model" in err
    example = onnx_example(tmp_path, "text-classification")
    assert len(example.splitlines()) <= 10
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(bert), AutoTokenizer.from_pretrained(bert)
    said = model.config.id2label[int(model(**tokenizer("the bad plot", return_tensors="pt")).logits.argmax())]
    assert ran_alone(tmp_path, example, "the bad plot") == said
    pair = ("good film", "the bad plot the plot")
    said = model.config.id2label[int(model(**tokenizer(*pair, return_tensors="pt")).logits.argmax())]
    assert ran_alone(tmp_path, example, *pair) == said
    # A new float file ends the others: nothing goes that was not named.
    (tmp_path / "onnx" / "model.onnx").unlink()
    code, _, err = compress(capsys, "export", bert, "-o", tmp_path, "--formats", "onnx")
    assert code == 2 and "model_quantized.onnx goes when onnx is written" in err
    assert (tmp_path / "onnx" / "model_quantized.onnx").exists()


@pytest.mark.slow
def test_an_export_into_a_students_folder_is_on_its_card(vit_a, image_folder, tmp_path, capsys):
    from compressor.pipeline.run.run import run_recipe as job

    job(
        build_recipe(
            tiny_recipe([vit_a], image_folder, tmp_path / "s", finetune={"enabled": False}, export={"onnx": False})
        )
    )
    assert "with onnxruntime alone" not in (tmp_path / "s" / "README.md").read_text()
    code, _, err = compress(capsys, "export", tmp_path / "s", "--formats", "onnx,onnx-fp16")
    assert (code, err) == (0, "")
    card = (tmp_path / "s" / "README.md").read_text()
    assert "| onnx-fp16 | `onnx/model_fp16.onnx` |" in card and "with onnxruntime alone" in card


def test_no_example_where_ten_lines_are_not_enough(tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    assert onnx_example(tmp_path, "image-classification") is None
    cropping = {"do_resize": True, "do_center_crop": True, "size": {"height": 8, "width": 8}}
    (tmp_path / "onnx" / "preprocessor_config.json").write_text(json.dumps(cropping))
    assert onnx_example(tmp_path, "image-classification") is None
    assert onnx_example(tmp_path, "seq2seq-lm") is None


def test_an_export_keeps_what_it_did_not_replace(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"table": [], "formats": {"onnx": 1, "onnx-int8": 2}}))
    assert _report_changes(folder, Delivery(None, {"onnx-int8": 3})) == {"formats": {"onnx": 1, "onnx-int8": 3}}
    # What was made of another float file went with it.
    assert _report_changes(folder, Delivery({"file": "f"}, {"onnx": 4})) == {
        "onnx": {"file": "f"},
        "formats": {"onnx": 4},
    }
    assert _report_changes(tmp_path, Delivery(None, {"onnx-int8": 3})) == {"formats": {"onnx-int8": 3}}


def test_an_encoder_decoder_that_classifies_has_a_file_of_the_whole_model(tmp_path):
    from transformers import BartConfig, BartForSequenceClassification

    config = BartConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=20,
    )  # fmt: skip
    written = write_formats(["onnx"], built(BartForSequenceClassification, config), tmp_path, ExportOptions())
    # Its answer is read where the text ends, which padding and other lengths move.
    assert len(written["onnx"].report.parity.cases) > 2
    assert written["onnx"].report.parity.max_rel < 1e-5


@pytest.mark.slow
def test_calibration_samples_may_lack_token_types(tmp_path):
    """A tokenizer of single texts gives none, and the file of a BERT has an input for them."""
    from tiny_text import model_of

    from compressor import export_onnx
    from compressor.export.quantise import calibration_reader

    path = export_onnx(model_of("classifier"), tmp_path).path
    batch = {"input_ids": torch.ones(2, 5, dtype=torch.int64), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    feed = calibration_reader(path, [batch]).get_next()
    assert set(feed) == {"input_ids", "attention_mask", "token_type_ids"} and not feed["token_type_ids"].any()
