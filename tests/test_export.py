"""That an ONNX file is the model, and that one which is not never gets its name."""

import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from compressor.errors import ParityError, UnsupportedError
from compressor.export import onnx as exporter
from compressor.export.onnx import export_onnx
from compressor.export.parity import check_parity

TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50,
}  # fmt: skip


def vit(seed=0):
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_labels=3, architectures=["ViTForImageClassification"], initializer_range=0.3,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    # Unlike zero, it stays a tensor of its own in the graph.
    torch.nn.init.normal_(model.classifier.bias)
    return model


def bert():
    torch.manual_seed(0)
    config = BertConfig(architectures=["BertForSequenceClassification"], initializer_range=0.3, **TEXT)
    return BertForSequenceClassification(config).eval()


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"], num_key_value_heads=1, initializer_range=0.3, bos_token_id=1, **TEXT
    )
    return LlamaForCausalLM(config).eval()


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        architectures=["GPT2ForSequenceClassification"], n_embd=16, n_layer=1, n_head=2, vocab_size=50, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, the report of its export, and its folder."""
    model, folder = vit(), tmp_path_factory.mktemp("vit")
    return model, export_onnx(model, folder), folder


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0])


class TestExport:
    def test_images(self, exported):
        model, report, folder = exported
        assert report.path == folder / "onnx" / "model.onnx"
        assert sorted(path.name for path in (folder / "onnx").iterdir()) == ["model.onnx"]
        assert report.bytes == report.path.stat().st_size
        assert (report.inputs, report.outputs) == (("pixel_values",), ("logits",))
        assert report.opset >= 17
        assert report.parity.max_rel < 1e-5
        assert [case.batch for case in report.parity.cases] == [1, 2, 5]
        # A batch size that the export never saw.
        pixels = torch.randn(11, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(run(report.path, pixel_values=pixels), model(pixel_values=pixels).logits)

    def test_axes_have_names(self, exported):
        graph = onnx.load(exported[1].path).graph
        shapes = [
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        ]
        assert shapes == [["batch", 3, 8, 8], ["batch", 3]]

    @pytest.mark.parametrize("make", [bert, llama, gpt2])
    def test_text(self, make, tmp_path, capfd):
        model = make()
        model.config.use_cache = True
        report = export_onnx(model, tmp_path)
        assert report.inputs == ("input_ids", "attention_mask")
        assert report.parity.max_rel < 1e-4
        assert {(case.batch, case.length, case.padded) for case in report.parity.cases} == {
            (batch, length, padded) for batch in (1, 2, 5) for length in (16, 7) for padded in (False, True)
        }
        ids = torch.randint(3, 50, (3, 23))
        mask = torch.ones_like(ids)
        mask[1, 20:] = 0
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(run(report.path, input_ids=ids, attention_mask=mask), expected, rtol=1e-3, atol=1e-4)
        # The mask is part of the graph, not frozen as the ones it was traced with.
        assert not torch.allclose(run(report.path, input_ids=ids, attention_mask=torch.ones_like(ids)), expected)
        assert model.config.use_cache is True
        assert capfd.readouterr() == ("", "")

    def test_the_model_is_left_as_it_is(self, tmp_path):
        model = vit().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        export_onnx(model, tmp_path, batch_sizes=(2,))
        assert model.training
        assert model.config._attn_implementation == "sdpa"
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_half_precision_is_exported_in_full(self, tmp_path):
        model = vit().to(torch.bfloat16)
        report = export_onnx(model, tmp_path, batch_sizes=(2,))
        assert model.dtype == torch.bfloat16
        assert report.parity.max_rel < 1e-5

    def test_large_weights_go_beside_the_graph(self, tmp_path, monkeypatch):
        monkeypatch.setattr(exporter, "LARGEST_FILE", 1000)
        model = vit()
        # An older one of the same name is replaced.
        report = [export_onnx(model, tmp_path, batch_sizes=(2,)) for _ in range(2)][-1]
        assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["model.onnx", "model.onnx.data"]
        assert report.bytes == sum(path.stat().st_size for path in (tmp_path / "onnx").iterdir())
        pixels = torch.randn(4, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(run(report.path, pixel_values=pixels), model(pixel_values=pixels).logits)


class TestRefusals:
    def test_a_task_that_is_not_supported_is_named_before_any_work(self, tmp_path):
        config = T5Config(
            architectures=["T5ForConditionalGeneration"], d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
            vocab_size=50,
        )  # fmt: skip
        with pytest.raises(UnsupportedError, match=r"T5ForConditionalGeneration \(seq2seq-lm\)"):
            export_onnx(T5ForConditionalGeneration(config), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_what_torch_cannot_export_is_named(self, tmp_path):
        class Stubborn(ViTForImageClassification):
            def forward(self, pixel_values, **options):
                if pixel_values.sum().item() > 0:
                    return super().forward(pixel_values, **options)
                raise ValueError

        with pytest.raises(UnsupportedError, match=r"cannot export Stubborn to ONNX: ."):
            export_onnx(Stubborn(vit().config), tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("older", [False, True])
    def test_a_failed_check_leaves_no_finished_file(self, tmp_path, older, monkeypatch):
        if older:
            (tmp_path / "onnx").mkdir()
            (tmp_path / "onnx" / "model.onnx").write_bytes(b"the older one")
        export = exporter._export

        def export_another(model, path):
            return export(vit(seed=1), path)

        monkeypatch.setattr(exporter, "_export", export_another)
        with pytest.raises(ParityError, match="differs from torch"):
            export_onnx(vit(seed=0), tmp_path)
        if older:
            assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["model.onnx"]
            assert (tmp_path / "onnx" / "model.onnx").read_bytes() == b"the older one"
        else:
            assert list(tmp_path.iterdir()) == []

    def test_an_interruption_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupt(model, path):
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(exporter, "_export", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export_onnx(vit(), tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestParity:
    def test_figures(self, exported):
        model, report, _ = exported
        found = check_parity(report.path, model, tolerance=1e-4, batch_sizes=(3,), seed=4)
        (case,) = found.cases
        assert (case.batch, case.length, case.padded) == (3, None, False)
        assert found.max_abs == case.max_abs and found.max_rel == case.max_rel
        assert 0 <= found.max_rel < 1e-5
        with pytest.raises(ParityError, match="more than the tolerance"):
            check_parity(report.path, model, tolerance=1e-12)

    def test_a_slightly_wrong_weight_is_found(self, exported, tmp_path):
        model, report, _ = exported
        wrong = onnx.load(report.path)
        largest = max(wrong.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = numpy_helper.to_array(largest).copy()
        values *= 1.01
        largest.CopyFrom(numpy_helper.from_array(values, largest.name))
        onnx.save(wrong, tmp_path / "wrong.onnx")
        with pytest.raises(ParityError, match=r"differs from torch by \d\.\d+e-\d+ of the largest logit at batch \d"):
            check_parity(tmp_path / "wrong.onnx", model)

    def test_the_figures_of_a_wrong_file_are_right(self, exported, tmp_path):
        model, report, _ = exported
        wrong = onnx.load(report.path)
        bias = next(tensor for tensor in wrong.graph.initializer if tensor.name.endswith("classifier.bias"))
        values = numpy_helper.to_array(bias).copy()
        values[0] += 0.25
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        onnx.save(wrong, tmp_path / "wrong.onnx")
        found = check_parity(tmp_path / "wrong.onnx", model, tolerance=1e9)
        assert found.max_abs == pytest.approx(0.25, rel=1e-4)

    def test_not_a_number_is_found(self, exported, tmp_path):
        model, report, _ = exported
        wrong = onnx.load(report.path)
        bias = next(tensor for tensor in wrong.graph.initializer if tensor.name.endswith("classifier.bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * float("nan"), bias.name))
        onnx.save(wrong, tmp_path / "wrong.onnx")
        with pytest.raises(ParityError, match="not finite"):
            check_parity(tmp_path / "wrong.onnx", model)

    def test_files_that_are_no_models(self, exported, tmp_path):
        model, report, _ = exported
        (tmp_path / "text.onnx").write_text("hello")
        (tmp_path / "cut.onnx").write_bytes(report.path.read_bytes()[:-2000])
        for path in (tmp_path / "nowhere.onnx", tmp_path / "text.onnx", tmp_path / "cut.onnx"):
            with pytest.raises(ParityError, match="not an ONNX file"):
                check_parity(path, model)

    def test_a_batch_size_that_is_frozen_is_found(self, exported, tmp_path):
        model, report, _ = exported
        wrong = onnx.load(report.path)
        axis = wrong.graph.input[0].type.tensor_type.shape.dim[0]
        axis.dim_value = 2
        onnx.save(wrong, tmp_path / "wrong.onnx")
        with pytest.raises(ParityError):
            check_parity(tmp_path / "wrong.onnx", model)
