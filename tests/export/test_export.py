"""That ONNX files are the model, and that those which are not never get their names."""

import copy
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from compressor.errors import ParityError, UnsupportedError, UserError
from compressor.export import onnx as exporter
from compressor.export.file_kinds import ENCODER_DECODERS, NAMES, STACKS, files_of
from compressor.export.formats import check_formats
from compressor.export.onnx import largest_differences, write_onnx
from compressor.export.parity import check_parity
from compressor.export.parity_cases import _counted
from compressor.export.runtime import Session
from compressor.export.write import write_formats
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import as_pair
from compressor.models.tasks.table import TASKS
from compressor.pipeline.deliver import export_report
from compressor.pipeline.run import trial
from compressor.pipeline.run.trial import try_opset
from compressor.recipe import ExportOptions

TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50,
}  # fmt: skip
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def built(cls, config, seed=0):
    torch.manual_seed(seed)
    config.architectures = [cls.__name__]
    return cls(config).eval()


def vit(seed=0):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    model = built(ViTForImageClassification, config, seed)
    # Unlike zero, it stays a tensor of its own in the graph.
    torch.nn.init.normal_(model.classifier.bias)
    return model


def bert(cls=BertForSequenceClassification):
    return built(cls, BertConfig(initializer_range=0.3, **TEXT))


def gpt2():
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, initializer_range=0.3, **SPECIAL)
    return built(GPT2ForSequenceClassification, config)


def mistral():
    """With a window of four tokens and grouped heads."""
    config = MistralConfig(num_key_value_heads=1, sliding_window=4, initializer_range=0.3, **TEXT, **SPECIAL)
    return built(MistralForCausalLM, config)


def t5():
    config = T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=50, decoder_start_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    return built(T5ForConditionalGeneration, config)


def whisper():
    config = WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=50, num_mel_bins=4, max_source_positions=6,
        max_target_positions=40, init_std=0.3, decoder_start_token_id=1, **SPECIAL,
    )  # fmt: skip
    return built(WhisperForConditionalGeneration, config)


def written(folder):
    return sorted(path.name for path in (folder / "onnx").iterdir())


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}


def spoil(path, which, factor):
    """Scale one weight of a file, which is known by the end of its name or by its shape."""
    file = onnx.load(path)
    weight = next(t for t in file.graph.initializer if which == list(t.dims) or t.name.endswith(str(which)))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * factor, weight.name))
    onnx.save(file, path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, the report of its export, and its folder."""
    model, folder = vit(), tmp_path_factory.mktemp("vit")
    return model, write_onnx(model, folder), folder


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    model, folder = mistral(), tmp_path_factory.mktemp("causal")
    return model, write_onnx(model, folder), folder


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory):
    model, folder = t5(), tmp_path_factory.mktemp("seq2seq")
    return model, write_onnx(model, folder), folder


@pytest.fixture
def spoiled(exported, tmp_path):
    """A folder with a copy of the file, to be spoiled."""
    return shutil.copy(exported[1].path, tmp_path / "model.onnx")


class TestExport:
    def test_images(self, exported):
        model, report, folder = exported
        assert report.path == folder / "onnx" / "model.onnx"
        assert written(folder) == ["model.onnx"]
        assert report.bytes == report.path.stat().st_size
        assert (report.inputs, report.outputs) == (("pixel_values",), ("logits",))
        assert report.opset >= 17
        assert report.parity.max_rel < 1e-5
        assert [case.batch for case in report.parity.cases] == [1, 2, 5]
        # A batch size that the export never saw.
        pixels = torch.randn(11, 3, 8, 8)
        with torch.no_grad():
            expected = model(pixel_values=pixels).logits
        torch.testing.assert_close(run(report.path, pixel_values=pixels)["logits"], expected)

    def test_axes_have_names(self, exported):
        graph = onnx.load(exported[1].path).graph
        shapes = [
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        ]
        assert shapes == [["batch", 3, 8, 8], ["batch", 3]]

    def test_text(self, tmp_path, capfd):
        model = gpt2()
        model.config.use_cache = True
        report = write_onnx(model, tmp_path)
        assert report.inputs == ("input_ids", "attention_mask")
        assert report.parity.max_rel < 1e-4
        assert {(case.batch, case.length, case.padding) for case in report.parity.cases} == {
            (batch, length, padding)
            for batch in (1, 2, 5)
            for length in (16, 7)
            for padding in ("none", "right", "left")
        }
        ids = torch.randint(3, 50, (3, 23))
        mask = torch.ones_like(ids)
        mask[1, 20:] = 0
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=mask).logits
        given = run(report.path, input_ids=ids, attention_mask=mask)["logits"]
        torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-4)
        # The mask is part of the graph, not frozen as the ones it was traced with.
        unmasked = run(report.path, input_ids=ids, attention_mask=torch.ones_like(ids))["logits"]
        assert not torch.allclose(unmasked, expected)
        assert model.config.use_cache is True
        assert capfd.readouterr() == ("", "")

    @pytest.mark.slow
    def test_a_model_without_a_head_gives_hidden_states(self, tmp_path):
        model = bert(BertModel)
        report = write_onnx(model, tmp_path, batch_sizes=(2,))
        assert report.outputs == ("last_hidden_state", "pooler_output")
        inputs = as_pair(model.config, dummy_inputs(model.config, 3, 9))
        with torch.no_grad():
            expected = model(**inputs)
        given = run(report.path, **inputs)
        for name in report.outputs:
            torch.testing.assert_close(given[name], expected[name], rtol=1e-3, atol=1e-4)

    @pytest.mark.slow
    def test_pairs_of_texts_are_told_apart(self, tmp_path):
        model = bert()
        report = write_onnx(model, tmp_path, batch_sizes=(2,))
        assert report.inputs == ("input_ids", "attention_mask", "token_type_ids")
        single = dummy_inputs(model.config, 3, 9)
        session = Session(report.path)
        with torch.no_grad():
            pair = as_pair(model.config, single)
            assert torch.allclose(session.run(pair)["logits"], model(**pair).logits, atol=1e-5)
            # What torch's model takes for one text, a file that is run here does too.
            assert torch.allclose(session.run(single)["logits"], model(**single).logits, atol=1e-5)
            assert not torch.allclose(model(**pair).logits, model(**single).logits, atol=1e-3)

    def test_the_model_is_left_as_it_is(self, exported, tmp_path, monkeypatch):
        monkeypatch.setattr(exporter, "_export", lambda graph, path: shutil.copy(exported[1].path, path))
        model = vit().train()
        model.classifier.bias.requires_grad_(False)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        write_onnx(model, tmp_path, batch_sizes=(2,))
        assert model.training
        assert model.config._attn_implementation == "sdpa"
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
        assert frozen == ["classifier.bias"]

    def test_half_precision_is_exported_in_full(self, tmp_path):
        model = vit().to(torch.bfloat16)
        report = write_onnx(model, tmp_path, batch_sizes=(2,))
        assert model.dtype == torch.bfloat16
        assert report.parity.max_rel < 1e-5

    def test_large_weights_go_beside_the_graph(self, tmp_path, monkeypatch):
        monkeypatch.setattr(exporter, "LARGEST_FILE", 1000)
        # An older one of the same name is replaced.
        (tmp_path / "onnx").mkdir()
        (tmp_path / "onnx" / "model.onnx.data").write_bytes(b"older")
        model = vit()
        report = write_onnx(model, tmp_path, batch_sizes=(2,))
        assert written(tmp_path) == ["model.onnx", "model.onnx.data"]
        assert report.bytes == sum(path.stat().st_size for path in (tmp_path / "onnx").iterdir())
        pixels = torch.randn(4, 3, 8, 8)
        with torch.no_grad():
            expected = model(pixel_values=pixels).logits
        torch.testing.assert_close(run(report.path, pixel_values=pixels)["logits"], expected)

    def test_what_a_report_says(self, causal):
        said = export_report(causal[1])
        assert said["file"] == "onnx/model.onnx"
        assert list(said["files"]) == ["onnx/model.onnx"]
        each = said["files"].values()
        assert said["largest_relative_difference"] == max(file["largest_relative_difference"] for file in each)
        assert said["bytes"] == sum(file["bytes"] for file in each)
        assert said["files"]["onnx/model.onnx"]["outputs"][0] == "logits"


class TestCausal:
    """A decoder with keys and values of the tokens before, in the file that other tools load first."""

    def test_files_and_names(self, causal):
        _, report, folder = causal
        assert written(folder) == ["model.onnx"]
        (step,) = report.files
        kept = ["0.key", "0.value"]
        own = ("input_ids", "attention_mask", "position_ids")
        assert step.inputs == (*own, *(f"past_key_values.{name}" for name in kept))
        assert step.outputs == ("logits", *(f"present.{name}" for name in kept))
        graph = onnx.load(step.path).graph
        shapes = {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }
        assert shapes["attention_mask"] == ["batch", "total_sequence"]
        assert shapes["past_key_values.0.value"] == ["batch", 1, "past_sequence", 8]
        assert shapes["present.0.key"] == ["batch", 1, "total_sequence", 8]
        assert shapes["logits"] == ["batch", "sequence", 50]

    def test_what_was_compared(self, causal):
        (step,) = causal[1].files
        assert step.parity.max_rel < 1e-5
        assert {case.steps for case in step.parity.cases} == {(1, 1, 1), (5, 1, 1), (9, 3, 1)}
        assert {(case.batch, case.padding) for case in step.parity.cases} == {
            (batch, padding) for batch in (1, 2, 5) for padding in ("none", "right", "left")
        }

    def test_it_generates_what_torch_generates(self, causal):
        model, report, _ = causal
        ids = torch.randint(3, 50, (2, 6))
        mask = torch.ones_like(ids)
        ids[0, :3], mask[0, :3] = 0, 0
        expected = model.generate(
            ids, attention_mask=mask, max_new_tokens=8, min_new_tokens=8, do_sample=False, eos_token_id=None
        )
        past = {name: torch.zeros(2, 1, 0, 8) for name in report.inputs if name.startswith("past")}
        new = ids
        for _ in range(8):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
            found = run(report.path, input_ids=new, attention_mask=mask, position_ids=positions, **past)
            new = found["logits"][:, -1:].argmax(-1)
            past = {name.replace("present", "past_key_values"): v for name, v in found.items() if name != "logits"}
            ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
        assert torch.equal(ids, expected)

    def test_a_difference_only_with_past_is_found(self, causal, tmp_path):
        model, _, folder = causal
        shutil.copytree(folder / "onnx", tmp_path, dirs_exist_ok=True)
        # The head, transposed.
        spoil(tmp_path / "model.onnx", [16, 50], 1.01)
        with pytest.raises(ParityError, match=r"model\.onnx differs .* at input_ids \[.* in steps of \d"):
            check_parity(tmp_path, model)

    def test_without_past_the_session_begins_a_text(self, causal):
        model, report, _ = causal
        ids, mask = torch.randint(3, 50, (2, 6)), torch.ones(2, 6, dtype=torch.long)
        mask[1, 4:] = 0
        given = Session(report.path).run({"input_ids": ids, "attention_mask": mask})["logits"]
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(given[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)

    def test_without_the_cache(self, causal, tmp_path):
        (tmp_path / "onnx").mkdir()
        for name in ("mine.txt", "model_with_past.onnx"):
            (tmp_path / "onnx" / name).write_text("")
        report = write_onnx(causal[0], tmp_path, cache=False, batch_sizes=(1,))
        assert (report.inputs, report.outputs) == (("input_ids", "attention_mask"), ("logits",))
        # An earlier version wrote the one with past; what is not an export's is left alone.
        assert written(tmp_path) == ["mine.txt", "model.onnx"]

    @pytest.mark.slow
    def test_experts(self):
        config = MixtralConfig(num_key_value_heads=1, num_local_experts=3, initializer_range=0.3, **TEXT, **SPECIAL)
        model = built(MixtralForCausalLM, config)
        before = model.get_experts_implementation()
        found = largest_differences(model, cache=False, batch_sizes=(1, 2))
        assert list(found) == ["model.onnx"] and found["model.onnx"] < 1e-5
        assert model.get_experts_implementation() == before


@pytest.mark.slow
class TestEncoderDecoder:
    """An encoder and its decoder in files of their own."""

    def test_files_and_names(self, seq2seq):
        _, report, folder = seq2seq
        assert written(folder) == ["decoder_model_merged.onnx", "encoder_model.onnx"]
        encoder, decoder = report.files
        assert (encoder.inputs, encoder.outputs) == (("input_ids", "attention_mask"), ("last_hidden_state",))
        kept = [f"0.{part}.{kind}" for part in ("decoder", "encoder") for kind in ("key", "value")]
        assert decoder.inputs == (
            "input_ids", "encoder_attention_mask", "encoder_hidden_states",
            *(f"past_key_values.{name}" for name in kept), "use_cache_branch",
        )  # fmt: skip
        assert decoder.outputs == ("logits", *(f"present.{name}" for name in kept))
        session = Session(decoder.path)
        assert (tuple(session.inputs), session.outputs) == (decoder.inputs, decoder.outputs)
        assert report.path == encoder.path
        assert all(file.parity.max_rel < 1e-5 for file in report.files)
        assert {case.padding for case in decoder.parity.cases} == {"none", "right", "left"}
        assert {case.steps for case in decoder.parity.cases} == {(), (1, 1, 1), (5, 1, 1), (9, 3, 1)}

    def test_weights_of_both_branches_are_stored_once(self, seq2seq):
        model, report, _ = seq2seq
        weights = [np.prod(t.dims) for t in onnx.load(report.files[1].path).graph.initializer]
        # And tables of positions.
        assert sum(weights) < 1.1 * sum(p.numel() for p in (*model.decoder.parameters(), *model.lm_head.parameters()))

    @pytest.mark.parametrize("sizes", [(3, 2, 0, 8), (1, 1, 0, 1), (0, 2, 0, 5)])
    def test_they_generate_what_torch_generates(self, seq2seq, sizes):
        model, report, _ = seq2seq
        encoder, decoder = (file.path for file in report.files)
        source = dummy_inputs(model.config, 3, 11)
        source = {name: source[name] for name in ("input_ids", "attention_mask")}
        source["attention_mask"][1, 6:] = 0
        expected = model.generate(**source, max_new_tokens=6, min_new_tokens=6, do_sample=False, eos_token_id=None)
        hidden = run(encoder, **source)["last_hidden_state"]
        seen = {"encoder_attention_mask": source["attention_mask"], "encoder_hidden_states": hidden}
        ids = new = torch.zeros(3, 1, dtype=torch.long)
        # Tools give the empty past of the first call sizes of their own.
        past = {name: torch.zeros(sizes) for name in report.files[1].inputs if name.startswith("past")}
        for step in range(6):
            found = run(decoder, input_ids=new, **seen, **past, use_cache_branch=torch.tensor([step > 0]))
            new = found["logits"][:, -1:].argmax(-1)
            ids = torch.cat([ids, new], 1)
            present = {name.replace("present", "past_key_values"): v for name, v in found.items() if name != "logits"}
            # As transformers.js and optimum do: those of the encoder are of the first call.
            assert all(("encoder" in name and step > 0) == (not value.numel()) for name, value in present.items())
            past |= {name: value for name, value in present.items() if value.numel()}
        assert torch.equal(ids, expected)

    def test_other_formats_have_its_names(self, seq2seq, tmp_path):
        options = ExportOptions()
        found = write_formats(["onnx-int8", "onnx-int4", "onnx-fp16"], seq2seq[0], tmp_path, options, batch_sizes=(2,))
        assert [path for path in written(tmp_path) if path.endswith("onnx")] == sorted(
            f"{part}{end}.onnx"
            for part in ("encoder_model", "decoder_model_merged")
            for end in ("_quantized", "_q4", "_fp16")
        )
        limits = {"onnx-int8": 0.05, "onnx-int4": 0.3, "onnx-fp16": 0.005}
        for name, limit in limits.items():
            assert 0 < found[name].report.parity.error < limit
        plan = found["onnx-fp16"].report.files[1].half
        assert plan.operations > 100 and plan.kept["Softmax"] > 0

    def test_an_earlier_version_s_file_with_past_goes(self, seq2seq, tmp_path, monkeypatch):
        model, report, folder = seq2seq
        shutil.copytree(folder / "onnx", tmp_path / "onnx")
        for name in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
            (tmp_path / "onnx" / name).write_text("")
        monkeypatch.setattr(
            exporter, "_export", lambda graph, path: shutil.copy(folder / "onnx" / "encoder_model.onnx", path)
        )
        monkeypatch.setattr(
            exporter, "merge_decoders", lambda parts, path, largest: shutil.copy(report.files[1].path, path)
        )
        write_onnx(model, tmp_path, batch_sizes=(1,))
        assert written(tmp_path) == ["decoder_model_merged.onnx", "encoder_model.onnx"]

    @pytest.mark.slow
    def test_spectrograms(self, tmp_path):
        report = write_onnx(whisper(), tmp_path, cache=False, batch_sizes=(1, 3))
        encoder, decoder = report.files
        assert encoder.inputs == ("input_features",)
        assert decoder.inputs == ("input_ids", "encoder_hidden_states")
        assert decoder.outputs == ("logits",)
        assert report.parity.max_rel < 1e-5
        assert written(tmp_path) == ["decoder_model.onnx", "encoder_model.onnx"]

    def test_a_wrong_file_is_named(self, seq2seq, tmp_path):
        model, _, folder = seq2seq
        shutil.copytree(folder / "onnx", tmp_path, dirs_exist_ok=True)
        spoil(tmp_path / "decoder_model_merged.onnx", [16, 50], 1.01)
        with pytest.raises(ParityError, match=r"decoder_model_merged\.onnx differs .* decoder_input_ids \["):
            check_parity(tmp_path, model)


class TestLayout:
    def test_tasks_are_known(self):
        assert set(STACKS) | set(ENCODER_DECODERS) <= set(TASKS)
        # Four files and two of an earlier version in six formats, one of them under an earlier name too.
        assert len(set(NAMES)) == len(NAMES) == 42

    def test_a_file_with_past_is_only_there_with_a_cache(self):
        assert [kind.name for kind in files_of(mistral(), cache=False)] == ["model.onnx"]
        assert [kind.name for kind in files_of(t5())] == ["encoder_model.onnx", "decoder_model_merged.onnx"]
        assert [kind.name for kind in files_of(t5(), cache=False)] == ["encoder_model.onnx", "decoder_model.onnx"]


class TestRefusals:
    def test_a_task_that_is_not_supported_is_named_before_any_work(self, tmp_path, monkeypatch):
        monkeypatch.delitem(ENCODER_DECODERS, "text-classification")
        config = BartConfig(
            d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=50,
        )  # fmt: skip
        with pytest.raises(UnsupportedError, match=r"BartForSequenceClassification \(text-classification\)"):
            write_onnx(built(BartForSequenceClassification, config), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_what_torch_cannot_export_is_named(self, tmp_path, capfd):
        class StubbornForImageClassification(ViTForImageClassification):
            def forward(self, pixel_values, **options):
                if pixel_values.sum().item() > -1e9:
                    return super().forward(pixel_values, **options)
                raise ValueError

        with pytest.raises(UnsupportedError, match=r"cannot export StubbornForImageClassification to model\.onnx: ."):
            write_onnx(StubbornForImageClassification(vit().config).eval(), tmp_path)
        assert list(tmp_path.iterdir()) == []
        assert capfd.readouterr() == ("", "")

    def test_a_model_that_does_not_take_a_plain_cache_is_named(self, causal, tmp_path, monkeypatch):
        class Hybrid(MistralForCausalLM):
            def forward(self, input_ids, attention_mask=None, past_key_values=None, **options):
                if past_key_values is not None:
                    raise TypeError("a cache of mine only")
                return super().forward(input_ids, attention_mask, **options)

        monkeypatch.setattr(exporter, "_export", lambda graph, path: shutil.copy(causal[1].path, path))
        model = built(Hybrid, copy.deepcopy(causal[0].config))
        model.config.architectures = ["MistralForCausalLM"]
        with pytest.raises(UnsupportedError, match=r"Hybrid .* model.onnx .*cache of mine.*cache=False"):
            write_onnx(model, tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("older", [False, True])
    def test_a_failed_check_leaves_no_finished_file(self, exported, tmp_path, older, monkeypatch):
        if older:
            (tmp_path / "onnx").mkdir()
            (tmp_path / "onnx" / "model.onnx").write_bytes(b"the older one")

        def export_another(graph, path):
            shutil.copy(exported[1].path, path)
            spoil(path, "classifier.bias", 1.5)

        monkeypatch.setattr(exporter, "_export", export_another)
        with pytest.raises(ParityError, match="differs from torch"):
            write_onnx(exported[0], tmp_path)
        if older:
            assert written(tmp_path) == ["model.onnx"]
            assert (tmp_path / "onnx" / "model.onnx").read_bytes() == b"the older one"
        else:
            assert list(tmp_path.iterdir()) == []

    def test_a_failure_of_one_file_leaves_none(self, tmp_path, monkeypatch):
        def write(graph, path):
            if path.name == "decoder_model.onnx":
                raise UnsupportedError("not this one")
            path.write_bytes(b"")

        monkeypatch.setattr(exporter, "_export", write)
        with pytest.raises(UnsupportedError, match="not this one"):
            write_onnx(t5(), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_an_interruption_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupt(graph, path):
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(exporter, "_export", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_onnx(vit(), tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestParity:
    def test_a_sample_padded_where_its_family_reads_it_does_not_count(self):
        for model, counts in ((bert(), [False, True]), (gpt2(), [True, True])):
            inputs = dummy_inputs(model.config, 2, 8)
            inputs["attention_mask"][0, :4], inputs["input_ids"][0, :4] = 0, 0
            with torch.inference_mode():
                expected = {"logits": model(**inputs).logits}
            assert _counted(model, inputs, "left", expected)["logits"].tolist() == counts
            assert _counted(model, inputs, "right", expected) == {"logits": None}

    def test_figures(self, exported):
        model, report, _ = exported
        found = check_parity(report.path.parent, model, tolerance=1e-4, batch_sizes=(3,), seed=4)["model.onnx"]
        (case,) = found.cases
        assert (case.batch, case.length, case.padding, case.steps) == (3, None, "none", ())
        assert case.inputs == "pixel_values [3, 3, 8, 8]"
        assert found.max_abs == case.max_abs and found.max_rel == case.max_rel
        assert 0 <= found.max_rel < 1e-5
        with pytest.raises(ParityError, match="more than the tolerance"):
            check_parity(report.path.parent, model, tolerance=1e-12)

    def test_a_slightly_wrong_weight_is_found(self, exported, spoiled):
        file = onnx.load(spoiled)
        largest = max(file.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        spoil(spoiled, largest.name, 1.01)
        with pytest.raises(ParityError, match=r"differs from torch by \d\.\d+e-\d+ .* at pixel_values \[\d, 3, 8, 8\]"):
            check_parity(spoiled.parent, exported[0])

    def test_the_figures_of_a_wrong_file_are_right(self, exported, spoiled):
        model = exported[0]
        spoil(spoiled, "classifier.bias", 2.0)
        found = check_parity(spoiled.parent, model, tolerance=1e9)["model.onnx"]
        assert found.max_abs == pytest.approx(model.classifier.bias.abs().max().item(), rel=1e-4)

    def test_not_a_number_is_found(self, exported, spoiled):
        spoil(spoiled, "classifier.bias", float("nan"))
        with pytest.raises(ParityError, match="not finite"):
            check_parity(spoiled.parent, exported[0])

    def test_files_that_are_no_models(self, exported, tmp_path):
        model, report, _ = exported
        whole = report.path.read_bytes()
        for content in (None, b"hello", whole[:-2000]):
            if content is not None:
                (tmp_path / "model.onnx").write_bytes(content)
            with pytest.raises(ParityError, match="not an ONNX file"):
                check_parity(tmp_path, model)

    def test_a_batch_size_that_is_frozen_is_found(self, exported, spoiled):
        wrong = onnx.load(spoiled)
        wrong.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        onnx.save(wrong, spoiled)
        with pytest.raises(ParityError):
            check_parity(spoiled.parent, exported[0])


class TestOpset:
    def test_the_file_is_of_the_opset_that_is_named(self, tmp_path):
        report = write_onnx(vit(), tmp_path, opset=21, batch_sizes=(2,))
        assert report.opset == 21 and report.parity.max_rel <= 1e-4

    @pytest.mark.slow
    @pytest.mark.parametrize(("opset", "make"), [(17, vit), (23, bert), (24, mistral)])
    def test_older_and_newer_ones(self, opset, make, tmp_path):
        made = write_formats(["onnx", "onnx-fp16"], make(), tmp_path, ExportOptions(opset=opset), batch_sizes=(2,))
        assert made["onnx"].report.opset == made["onnx-fp16"].report.opset == opset
        assert made["onnx-fp16"].report.parity.error < 0.01

    def test_one_whose_files_do_not_run_is_refused_before_a_run(self, monkeypatch):
        """So it is for rotary embeddings with opset 23, torch 2.13 and ONNX Runtime 1.31."""

        def refuse(*arguments, **options):
            assert options["batch_sizes"] == (2,) and options["opset"] == 23
            raise ParityError("it does not run")

        monkeypatch.setattr(trial, "write_onnx", refuse)
        with pytest.raises(
            UserError, match=r"MistralForCausalLM with opset 23 do not run here: name another.* not run"
        ):
            try_opset(mistral().config, ExportOptions(opset=23))

    @pytest.mark.slow
    def test_one_that_some_operation_does_not_have_is_refused_before_a_run(self, tmp_path):
        line = r"with opset 13: some of its operations need opset 18"
        with pytest.raises(UnsupportedError, match=line):
            write_onnx(vit(), tmp_path / "s", opset=13)
        assert not (tmp_path / "s" / "onnx").exists()
        with pytest.raises(UnsupportedError, match=line):
            try_opset(vit().config, ExportOptions(opset=13))
        try_opset(vit().config, ExportOptions(opset=19))
        # Without an export there is nothing to try.
        try_opset(vit().config, ExportOptions(opset=13, onnx=False))

    @pytest.mark.parametrize("opset", [6, 99])
    def test_one_that_nothing_here_knows_is_refused_at_the_start(self, opset, tmp_path):
        line = rf"opset {opset} cannot be written and run here: .* know 7 to \d\d$"
        with pytest.raises(UserError, match=line):
            write_onnx(None, tmp_path, opset=opset)
        with pytest.raises(UserError, match=line):
            check_formats(["onnx"], vit().config, data=False, opset=opset)
