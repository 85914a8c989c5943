"""What the table's figures mean: accuracy and KL, multiply–accumulates, sizes, latency, and how they are shown."""

import copy
import io
import itertools
import json
import math
import time
from dataclasses import replace

import onnx
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from rich.console import Console
from torch.nn.functional import kl_div
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MixtralConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from compressor.bench import latency
from compressor.bench.accuracy import measure_accuracy as measure_models
from compressor.bench.accuracy import predict, score_model
from compressor.bench.latency import Runner, available_threads, measure_latency, onnx_runner, torch_runner
from compressor.bench.rows import KL_TITLE, Row, from_json, table_columns, to_json, to_markdown
from compressor.bench.size import count_macs, count_parameters, weight_bytes
from compressor.ensemble.probabilities import mix_predictions
from compressor.errors import UnsupportedError, UserError
from compressor.report.tables import render_table
from compressor.utils.threads import torch_threads

TEXT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50,
}  # fmt: skip


def vit_config(**fields):
    values = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "image_size": 16, "patch_size": 4, "num_labels": 5, "architectures": ["ViTForImageClassification"],
    }  # fmt: skip
    return ViTConfig(**{**values, **fields})


def vit(seed=0):
    torch.manual_seed(seed)
    # Wide enough for the classes to differ from each other.
    return ViTForImageClassification(vit_config(initializer_range=0.3)).eval()


def image_batches(labels=True, sizes=(4, 4, 3)):
    generator = torch.Generator().manual_seed(7)
    batches = []
    for size in sizes:
        batch = {"pixel_values": torch.randn(size, 3, 16, 16, generator=generator)}
        if labels:
            batch["labels"] = torch.randint(5, (size,), generator=generator)
        batches.append(batch)
    return batches


def log_probs(model, batches):
    return torch.cat([found.log_probs[0] for found in predict([model], batches)])


class TestAccuracy:
    def test_log_probs_are_the_models_own_in_order(self):
        model, batches = vit(), image_batches()
        pixels = torch.cat([batch["pixel_values"] for batch in batches])
        with torch.no_grad():
            expected = model(pixel_values=pixels).logits.log_softmax(-1)
        torch.testing.assert_close(log_probs(model, batches), expected, rtol=1e-5, atol=1e-6)

    def test_ensemble_is_the_weighted_mean_of_softmaxes(self):
        models, batches = [vit(0), vit(1)], image_batches()
        rows = [log_probs(model, batches).exp() for model in models]
        expected = 0.25 * rows[0] + 0.75 * rows[1]
        found = mix_predictions([log_probs(model, batches) for model in models], [1, 3])
        torch.testing.assert_close(found.exp(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(len(found)))

    def test_one_pass_per_model_and_batch(self):
        models = [vit(0), vit(1)]
        calls = []
        for model in models:
            model.register_forward_hook(lambda *_, model=model: calls.append(id(model)))
        made = []

        def batches():
            for batch in image_batches():
                made.append(batch)
                yield batch

        list(predict(models, batches()))
        assert len(made) == 3
        assert [calls.count(id(model)) for model in models] == [3, 3]

    def test_labels_never_reach_the_model(self):
        model, batches = vit(), image_batches()
        seen = []
        model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
        found = list(predict([model], batches))
        assert seen == [{"pixel_values"}] * 3
        assert all(torch.equal(one.labels, batch["labels"]) for one, batch in zip(found, batches, strict=True))
        assert all("labels" in batch for batch in batches)
        assert all(one.labels is None for one in predict([model], image_batches(labels=False)))

    def test_training_mode_is_kept_and_dropout_is_off(self):
        config = vit_config(hidden_dropout_prob=0.5)
        model = ViTForImageClassification(config).train()
        assert torch.equal(log_probs(model, image_batches()), log_probs(model, image_batches()))
        assert model.training
        assert not log_probs(model, image_batches()).requires_grad

    def test_score_against_hand_made_figures(self):
        probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])
        reference = torch.tensor([[0.5, 0.25, 0.25]]).expand(4, 3)
        found = score_model(probabilities.log(), torch.tensor([0, 1, 0, 0]), reference.log())
        assert found.accuracy == 0.75
        assert found.accuracy_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
        expected = kl_div(probabilities.log(), reference, reduction="batchmean").item()
        assert found.kl == pytest.approx(expected, rel=1e-6)
        assert (found.samples, found.labelled) == (4, 4)

    def test_kl_to_itself_is_zero_and_it_is_not_symmetric(self):
        a, b = (log_probs(vit(seed), image_batches()) for seed in (0, 1))
        assert score_model(a, reference_log_probs=a).kl == 0
        forward, backward = score_model(a, reference_log_probs=b).kl, score_model(b, reference_log_probs=a).kl
        assert forward > 0 and backward > 0 and abs(forward - backward) > 1e-3 * forward

    def test_impossible_classes_of_the_reference_add_nothing(self):
        reference = torch.tensor([[0.0, 1.0]]).log()
        assert score_model(torch.tensor([[0.0, 1.0]]).log(), reference_log_probs=reference).kl == 0
        assert score_model(torch.tensor([[0.5, 0.5]]).log(), reference_log_probs=reference).kl == pytest.approx(
            math.log(2)
        )

    def test_unknown_labels_are_left_out(self):
        rows = torch.eye(3).log_softmax(-1)
        found = score_model(rows, torch.tensor([0, -1, 0]))
        assert (found.accuracy, found.labelled, found.samples) == (0.5, 2, 3)
        nothing = score_model(rows, torch.full((3,), -1))
        assert nothing.accuracy is None and nothing.accuracy_error is None
        assert score_model(rows).accuracy is None and score_model(rows).kl is None

    def test_a_weight_of_zero_is_a_model_alone(self):
        rows = [log_probs(vit(seed), image_batches()) for seed in (0, 1)]
        torch.testing.assert_close(mix_predictions(rows, [0, 2]), rows[1])

    @pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
    def test_wrong_weights(self, weights):
        with pytest.raises(UserError, match="weights"):
            mix_predictions([torch.zeros(1, 2)] * 2, weights)

    def test_wrong_data(self):
        with pytest.raises(UserError, match="no samples"):
            measure_models([vit()], [])
        with pytest.raises(UserError, match="only some"):
            measure_models([vit()], [*image_batches(), *image_batches(labels=False)])
        with pytest.raises(UnsupportedError, match="cannot be measured as features"):
            measure_models([ViTModel(vit_config())], image_batches())


def vit_macs(config):
    """The closed form: patches; in each layer q, k, v, o, the two products of attention and the FFN; the classifier."""
    patches = (config.image_size // config.patch_size) ** 2
    tokens, width = patches + 1, config.hidden_size
    embedding = patches * config.num_channels * config.patch_size**2 * width
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    ffn = 2 * tokens * width * config.intermediate_size
    return embedding + config.num_hidden_layers * (attention + ffn) + width * config.num_labels


class TestFlops:
    def test_vit_b_from_its_config(self):
        config = ViTConfig(architectures=["ViTForImageClassification"], num_labels=1000)
        found = count_macs(config)
        assert found == vit_macs(config)
        assert found / 1e9 == pytest.approx(17.56, abs=0.005)
        assert count_parameters(config) == 86_567_656

    def test_a_model_counts_as_its_config_and_is_left_alone(self):
        model = vit()
        before = copy.deepcopy(model.state_dict())
        assert count_macs(model) == count_macs(model.config) == vit_macs(model.config)
        assert model.config._attn_implementation == "sdpa"
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_parameters_of_a_config_allocate_nothing(self):
        # 3 × 10¹² parameters: building them for real could not end well.
        config = vit_config(hidden_size=2**19, intermediate_size=2**21, num_attention_heads=2, num_hidden_layers=1)
        assert count_parameters(config) > 3 * 10**12

    def test_a_pruned_model_is_counted_as_it_is(self):
        model = vit()
        head = model.classifier
        model.classifier = torch.nn.Linear(head.in_features, 2)
        assert count_macs(model) == vit_macs(model.config) - 3 * head.in_features

    def test_the_count_is_of_one_sample_and_inputs_count_as_given(self):
        model = vit()
        four = {"pixel_values": torch.zeros(4, 3, 16, 16)}
        assert count_macs(model, four) == 4 * count_macs(model)

    def test_attention_grows_with_the_square_of_the_length(self):
        config = BertConfig(architectures=["BertForSequenceClassification"], max_position_embeddings=600, **TEXT)
        short, long = count_macs(config, length=128), count_macs(config, length=256)
        products = 2 * 2 * 128**2 * 32
        pooler = 32 * 32 + 32 * 2
        assert long == 2 * (short - products - pooler) + 4 * products + pooler

    def test_lengths_are_cut_to_the_positions(self):
        config = BertConfig(architectures=["BertForSequenceClassification"], max_position_embeddings=34, **TEXT)
        assert count_macs(config, length=4000) == count_macs(config, length=34) > count_macs(config, length=33)

    def test_norms_are_left_out_and_the_rest_is_fvcores(self):
        model = vit()
        model.set_attn_implementation("eager")

        class Plain(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, pixels):
                return self.model(pixel_values=pixels).logits

        with torch.no_grad():
            analysis = FlopCountAnalysis(Plain(), torch.zeros(1, 3, 16, 16))
            analysis.unsupported_ops_warnings(False).tracer_warnings("none")
            counts = analysis.by_operator()
        assert count_macs(model) == sum(counts.values()) - counts["layer_norm"]

    @pytest.mark.parametrize(
        "config",
        [
            GPT2Config(architectures=["GPT2LMHeadModel"], n_embd=32, n_layer=2, n_head=4, vocab_size=50),
            LlamaConfig(architectures=["LlamaForCausalLM"], num_key_value_heads=4, **TEXT),
        ],
        ids=["gpt2", "llama"],
    )
    def test_decoders_count_every_projection_and_both_products(self, config):
        ffn = 3 * 32 * 64 if config.model_type == "llama" else 2 * 32 * 128
        expected = 2 * (16 * (4 * 32**2 + ffn) + 2 * 16**2 * 32) + 16 * 32 * 50
        assert count_macs(config, length=16) == expected

    def test_experts_count_only_where_tokens_go(self):
        fields = {**TEXT, "num_local_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 4}
        config = MixtralConfig(architectures=["MixtralForCausalLM"], **fields)
        layer = 16 * (4 * 32**2 + 2 * 3 * 32 * 64 + 32 * 8) + 2 * 16**2 * 32
        assert count_macs(config, length=16) == 2 * layer + 16 * 32 * 50

    def test_headless_models_and_silence(self, capfd):
        macs = count_macs(ViTModel(vit_config(architectures=["ViTModel"])))
        # The pooler reads one token.
        assert macs == vit_macs(vit_config()) - 32 * 5 + 32 * 32
        assert capfd.readouterr() == ("", "")

    def test_what_cannot_be_counted_is_refused(self):
        class Fused(ViTForImageClassification):
            def forward(self, pixel_values, **_):
                flat = pixel_values.flatten(2)
                return {"logits": torch.nn.functional.scaled_dot_product_attention(flat, flat, flat)}

        with pytest.raises(UnsupportedError, match="scaled_dot_product_attention"):
            count_macs(Fused(vit_config()))


class TestSize:
    def test_tied_parameters_count_once(self):
        config = GPT2Config(architectures=["GPT2LMHeadModel"], n_embd=32, n_layer=2, n_head=4, vocab_size=50)
        model = GPT2LMHeadModel(config)
        unique = {parameter.data_ptr(): parameter.numel() for parameter in model.parameters()}
        assert count_parameters(model) == count_parameters(config) == sum(unique.values())
        assert weight_bytes(model) == 4 * count_parameters(model)

    def test_bytes_of_a_folder(self, tmp_path):
        model = vit()
        model.save_pretrained(tmp_path)
        found = weight_bytes(tmp_path)
        assert found == (tmp_path / "model.safetensors").stat().st_size
        assert 4 * count_parameters(model) <= found < 4 * count_parameters(model) + 20_000
        with pytest.raises(UserError, match="no weights"):
            weight_bytes(tmp_path / "nowhere")


class FakeClock:
    """A clock that only moves when a contender runs, so that what is measured is known."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)

    def contender(self, name, times, calls):
        durations = itertools.chain(times, itertools.repeat(times[-1]))

        def call():
            calls.append(name)
            self.now += next(durations)

        return call


class TestLatency:
    def test_first_call_and_warm_ups_are_kept_apart(self, monkeypatch):
        calls = []
        clock = FakeClock(monkeypatch)
        slow_start = clock.contender("a", [5.0] + [1.0] * 10 + [0.01], calls)
        found = measure_latency({"a": slow_start}, seconds=100.0)["a"]
        assert found.first_call_ms == 5000
        assert found.warmups == 10
        assert found.p50_ms == found.p99_ms == pytest.approx(10)
        assert found.iterations * 0.01 >= 100.0
        assert len(calls) == 1 + 10 + found.iterations

    def test_percentiles(self, monkeypatch):
        clock = FakeClock(monkeypatch)
        times = [0.01] * 11 + [float(i) for i in range(1, 101)]
        found = measure_latency({"a": clock.contender("a", times, [])}, seconds=1.0, min_iterations=100)["a"]
        assert found.iterations == 100
        assert (found.p50_ms, found.p95_ms) == (pytest.approx(50_500), pytest.approx(95_050))
        assert found.p50_ms < found.p90_ms < found.p95_ms < found.p99_ms

    def test_contenders_take_turns(self, monkeypatch):
        calls = []
        clock = FakeClock(monkeypatch)
        found = measure_latency(
            {"a": clock.contender("a", [0.01], calls), "b": clock.contender("b", [0.02], calls)}, seconds=1.0
        )
        measured = calls[22:]
        turns = [name for name, _ in itertools.groupby(measured)]
        assert len(turns) >= 20 and turns[:4] == ["a", "b", "a", "b"]
        assert found["a"].iterations >= 100 and found["b"].iterations >= 50

    def test_slow_models_still_get_ten_iterations_and_fewer_warm_ups_which_are_stated(self, monkeypatch):
        clock = FakeClock(monkeypatch)
        found = measure_latency({"a": clock.contender("a", [3.0], [])}, seconds=1.0)["a"]
        assert found.iterations == 10
        assert found.warmups == 2

    def test_real_time(self):
        found = measure_latency({"sleep": lambda: time.sleep(0.002)}, seconds=0.05)["sleep"]
        assert 2 <= found.p50_ms < 50
        assert found.iterations >= 10
        assert (found.backend, found.threads, found.batch_size, found.load_ms) == ("callable", None, None, None)

    def test_torch_threads_are_set_during_a_turn_and_restored(self):
        before = torch.get_num_threads()
        seen = set()
        runner = Runner(lambda: seen.add(torch.get_num_threads()), "torch", 1, before + 1)
        measure_latency({"a": runner}, seconds=0.001)
        assert seen == {before + 1}
        assert torch.get_num_threads() == before

        def fail():
            raise RuntimeError

        with pytest.raises(RuntimeError):
            measure_latency({"a": Runner(fail, "torch", 1, before + 1)}, seconds=0.001)
        assert torch.get_num_threads() == before
        with torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1

    def test_torch_runner(self):
        model = vit()
        inputs = {"pixel_values": torch.zeros(6, 3, 16, 16)}
        runner = torch_runner(model, inputs, threads=1)
        assert (runner.backend, runner.batch_size, runner.threads, runner.load_ms) == ("torch", 6, 1, None)
        runner()
        loaded = torch_runner(lambda: (time.sleep(0.01), model)[1], inputs)
        assert loaded.load_ms >= 10 and loaded.threads == torch.get_num_threads()

    def test_onnx_runner(self, tmp_path):
        node = onnx.helper.make_node("Relu", ["pixel_values"], ["logits"])
        shape = ["batch", 3]
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph([node], "g", [value("pixel_values", 1, shape)], [value("logits", 1, shape)])
        opset = [onnx.helper.make_opsetid("", 20)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m.onnx")
        inputs = {"pixel_values": torch.tensor([[-1.0, 2.0, 3.0]]), "unused": torch.ones(1)}
        runner = onnx_runner(tmp_path / "m.onnx", inputs, threads=1)
        assert runner()[0].tolist() == [[0.0, 2.0, 3.0]]
        assert (runner.backend, runner.batch_size, runner.threads) == ("onnxruntime", 1, 1)
        assert runner.load_ms > 0

    def test_threads_are_those_of_the_process(self):
        assert available_threads() >= 1


ROWS = [
    Row("vit-a", 0.6162, 0.0123, 2_693_578, 46_379_136, 10_859_664, 36.2, 38.8, 32.9, 33.9),
    Row("ensemble", 0.6238, 0.0, 5_387_156, 92_758_272, 21_719_328, 72.4, 77.7),
    Row("google/vit-base-patch16-224", None, None, 86_567_656, 17_563_828_224, 346_293_852, 1234.5, 1300.0, 999.0, 1e3),
    Row("student [0.5]", 0.587, 0.2341, 690_000, 12_000_000, 2_770_000, 9.876, 10.1, 8.0, 8.9),
]


class TestTable:
    def test_cells(self):
        assert ROWS[0].cells() == {
            "model": "vit-a", "accuracy": "61.6 %", "perplexity": "–", "Spearman": "–", "F1": "–", "RMSE": "–",
            KL_TITLE: "0.012", "params (M)": "2.69",
            "GMACs": "0.046", "MB": "10.86", "torch ms": "36.2 / 38.8", "ORT ms": "32.9 / 33.9",
        }  # fmt: skip
        assert ROWS[1].cells()["ORT ms"] == "–"
        assert ROWS[2].cells()["GMACs"] == "17.56"
        assert Row("x", None, None, 12, 400, 48).cells()["params (M)"] == "<0.001"

    def test_text_models_have_columns_of_their_own(self):
        decoder = Row("gpt", None, 0.1, 10**6, 10**9, 10**6, perplexity=23.456)
        assert decoder.cells()["perplexity"] == "23.46" and decoder.cells()["accuracy"] == "–"
        assert Row("gpt", None, 0.1, 1, 1, 1, perplexity=123456.0).cells()["perplexity"] == "1.23e+05"
        assert "perplexity" in table_columns([decoder]) and "F1" not in table_columns([decoder])
        tagger = Row("bert", 0.9, 0.1, 10**6, 10**9, 10**6, f1=0.8123)
        assert list(table_columns([tagger]))[:4] == ["model", "accuracy", "F1", KL_TITLE]
        assert from_json(to_json([decoder, tagger])) == [decoder, tagger]

    def test_markdown(self):
        lines = to_markdown(ROWS).splitlines()
        assert len(lines) == 2 + len(ROWS)
        assert lines[1].startswith("| :-- | --: |")
        assert len({line.count("|") for line in lines}) == 1
        assert "| student \\[0.5\\] | 58.7 % | 0.234 | 0.690 |" in lines[-1]
        assert "a\\|b" in to_markdown([Row("a|b", 1.0, 0.0, 1, 1, 1)])
        assert to_markdown([]) == ""

    def test_columns_without_any_value_are_left_out(self):
        bare = [Row("a", 0.5, None, 10**6, 10**9, 10**6)]
        assert list(table_columns(bare)) == ["model", "accuracy", "params (M)", "GMACs", "MB"]
        assert "torch" not in to_markdown(bare)

    def test_json_round_trip(self):
        assert from_json(json.loads(json.dumps(to_json(ROWS)))) == ROWS

    @pytest.mark.parametrize(("width", "tails", "name"), [(80, False, "google/vit-…16-224"), (120, True, ROWS[2].name)])
    def test_the_terminal_shows_every_figure(self, width, tails, name):
        """Where it is narrow the middle of a name and the 95th percentiles are left out, and nothing is wrapped."""
        errors = [replace(row, accuracy_error=0.0049, kl_error=0.0021) for row in ROWS]
        text = _shown(errors, width, result=True)
        assert max(map(len, text.splitlines())) <= width
        lines = [line for line in text.splitlines() if "%" in line or "17.56" in line]
        assert len(lines) == len(ROWS)
        for line, row in zip(lines, errors, strict=True):
            for title, cell in row.cells(tails).items():
                assert title == "model" or cell == "–" or cell in line
        assert "→ student [0.5]" in lines[-1] and text.count("→ student") == 1
        assert name in text and ("1300" in text) is tails
        legend = text.splitlines()[-1]
        times = "p50 / p95" if tails else "p50"
        assert legend.strip() == f"→ the result; ± a standard error; KL to the ensemble ↓ (nats); ms: {times}"

    def test_what_is_not_measured_is_not_shown(self):
        assert "torch ms" not in _shown([Row("a", 0.5, None, 1, 1, 1)])
        assert _shown([]).strip() == ""


def _shown(rows, width=80, result=False):
    console = Console(file=io.StringIO(), width=width)
    console.print(render_table(rows, result))
    return console.file.getvalue()


def test_bert_predictions_on_text():
    model = BertForSequenceClassification(BertConfig(**TEXT)).eval()
    batch = {"input_ids": torch.ones(3, 4, dtype=torch.long), "attention_mask": torch.ones(3, 4, dtype=torch.long)}
    assert log_probs(model, [batch, batch]).shape == (6, 2)
