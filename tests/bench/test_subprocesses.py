"""That contenders are timed apart and in turns, on anybody's ONNX files, and that two results can be compared."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pytest
from command import compress

from compressor.bench import subprocesses, worker
from compressor.bench.compare import compare_results, read_result
from compressor.bench.onnx_inputs import Entry, make_feed
from compressor.bench.subprocesses import Measurement, TimingJob, WorkerError, measure_isolated
from compressor.errors import UnsupportedError, UserError
from compressor.report.tables import comparison_table


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """An ONNX file that this package has not made: a text model of one table, and a folder without a config."""
    path = tmp_path_factory.mktemp("foreign") / "other.onnx"
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    table = onnx.numpy_helper.from_array(np.ones((9, 4), np.float32), "table")
    graph = onnx.helper.make_graph(
        [node("Gather", ["table", "input_ids"], ["logits"])],
        "g",
        [value("input_ids", onnx.TensorProto.INT64, ["N", "T"])],
        [value("logits", 1, ["N", "T", 4])],
        [table],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("onnx", {"session.force_spinning_stop": "1"}),
        ("onnx-no-spinning", {"session.force_spinning_stop": "1", "session.intra_op.allow_spinning": "0"}),
        ("onnx-default", {}),
    ],
)
def test_threads_that_wait(foreign, monkeypatch, engine, expected):
    entries = {}

    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, name, value):
            entries[name] = value
            super().add_session_config_entry(name, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    call = worker.ENGINES[engine](asdict(job(foreign, engine=engine)))()
    assert call()[0].shape == (2, 3, 4) and entries == expected


def job(path, **rest):
    return TimingJob(**{"engine": "onnx", "path": str(path), "batch_size": 2, "length": 3, "threads": 1, **rest})


class TestIsolated:
    def test_each_in_a_process_of_its_own(self, foreign, tmp_path):
        shares = []
        found, missing, again = measure_isolated(
            [job(foreign), job(tmp_path / "none.onnx"), job(foreign, batch_size=5)],
            seconds=0.02, warmups=3, min_iterations=12, on_progress=shares.append,
        )  # fmt: skip
        for one in (found, again):
            assert isinstance(one, Measurement)
            assert 0 < one.p50_ms <= one.p90_ms <= one.p95_ms <= one.p99_ms
            assert one.iterations >= 12 and one.warmups == 3 and one.threads == 1
            assert min(one.import_ms, one.load_ms, one.first_call_ms) > 0
            # A process that only runs ONNX Runtime is small: this one has torch.
            assert 10e6 < one.base_memory_bytes <= one.peak_memory_bytes < 200e6
        assert isinstance(missing, WorkerError) and "none.onnx" in str(missing)
        assert shares[-1] == 1.0

    def test_joules_of_a_call(self, foreign, monkeypatch):
        class Meter:
            def joules(self):
                return 1.5

        monkeypatch.setattr(subprocesses, "EnergyMeter", Meter)
        (found,) = measure_isolated([job(foreign)], seconds=0.02, min_iterations=12)
        turns = found.joules * found.iterations / 1.5
        assert turns > 0.5 and turns == pytest.approx(round(turns))

    def test_turns_go_round(self, monkeypatch):
        order = []

        class Fake:
            def __init__(self, name):
                self.name = name

        def request(self, values):
            if "seconds" in values:
                order.append(self.job.path)
                return {"times": [1.01 * values["seconds"]]}
            parts = ("import_ms", "load_ms", "first_call_ms", "warmups", "base_memory_bytes", "peak_memory_bytes")
            return dict.fromkeys(parts, 1)

        monkeypatch.setattr(subprocesses, "_start", lambda job: Fake(job.path))
        monkeypatch.setattr(subprocesses._Process, "request", request)
        monkeypatch.setattr(subprocesses._Process, "close", lambda self: order.append("end"))
        measure_isolated([job("a"), job("b")], seconds=1.0)
        assert order == ["a", "b"] * 10 + ["end", "end"]

    def test_a_process_that_dies_is_told(self, foreign, monkeypatch):
        import subprocess
        import sys

        monkeypatch.setattr(
            subprocesses,
            "_start",
            lambda job: subprocess.Popen(
                [sys.executable, "-c", "raise SystemExit(3)"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            ),
        )  # fmt: skip
        (found,) = measure_isolated([job(foreign)], seconds=0.01)
        assert isinstance(found, WorkerError) and "code 3" in str(found)


class TestFeeds:
    def test_text(self):
        entries = [
            Entry("input_ids", ["batch", "sequence"], "tensor(int64)"),
            Entry("attention_mask", [None, None], "tensor(int64)"),
            Entry("token_type_ids", ["batch", "sequence"], "tensor(int32)"),
        ]
        feed = make_feed(entries, 3, 7, {"vocab_size": 5})
        assert {name: value.shape for name, value in feed.items()} == dict.fromkeys(feed, (3, 7))
        assert feed["input_ids"].max() < 5 and feed["attention_mask"].all() and not feed["token_type_ids"].any()
        assert feed["token_type_ids"].dtype == np.int32

    def test_pictures(self):
        axes = ["batch_size", "num_channels", "height", "width"]
        entry = Entry("pixel_values", axes, "tensor(float16)")
        assert make_feed([entry], 2, 9)["pixel_values"].shape == (2, 3, 224, 224)
        found = make_feed([entry], 2, 9, {"image_size": [8, 6], "num_channels": 1})["pixel_values"]
        assert found.shape == (2, 1, 8, 6) and found.dtype == np.float16

    def test_a_step_with_past(self):
        entries = [
            Entry("input_ids", ["batch", "sequence"], "tensor(int64)"),
            Entry("attention_mask", ["batch", "total_sequence"], "tensor(int64)"),
            Entry("position_ids", ["batch", "sequence"], "tensor(int64)"),
            Entry("past_key_values.0.decoder.key", ["batch", 4, "past_sequence", 8], "tensor(float)"),
            Entry("past_key_values.0.encoder.key", ["batch", 4, "encoder_sequence", 8], "tensor(float)"),
            Entry("encoder_attention_mask", ["batch", "encoder_sequence"], "tensor(int64)"),
        ]
        feed = make_feed(entries, 2, 6)
        sizes = {name: value.shape for name, value in feed.items()}
        assert sizes["input_ids"] == (2, 1) and sizes["attention_mask"] == (2, 7)
        assert sizes["past_key_values.0.decoder.key"] == (2, 4, 6, 8) and sizes["encoder_attention_mask"] == (2, 6)
        assert feed["position_ids"].tolist() == [[6], [6]]

    def test_a_causal_model_reads_the_whole_text_at_once(self):
        entries = [
            Entry("input_ids", ["batch", "sequence"], "tensor(int64)"),
            Entry("attention_mask", ["batch", "total_sequence"], "tensor(int64)"),
            Entry("position_ids", ["batch", "sequence"], "tensor(int64)"),
            Entry("past_key_values.0.key", ["batch", 4, "past_sequence", 8], "tensor(float)"),
        ]
        feed = make_feed(entries, 2, 6)
        assert [value.shape for value in feed.values()] == [(2, 6), (2, 6), (2, 6), (2, 4, 0, 8)]
        assert feed["position_ids"][1].tolist() == [0, 1, 2, 3, 4, 5]

    def test_other_types_are_refused(self):
        with pytest.raises(UnsupportedError, match=r"tensor\(string\)"):
            make_feed([Entry("words", ["batch"], "tensor(string)")], 1, 1)


def result(*rows, **environment):
    rest = {"length": None, "peak_memory_bytes": 10}
    return {
        "results": [
            {"model": m, "backend": b, "batch_size": n, "p50_ms": t, "p95_ms": 2 * t, **rest} for m, b, n, t in rows
        ],
        "environment": {"cpu": "one", **environment},
        "settings": {"threads": 2},
    }  # fmt: skip


class TestComparison:
    def test_rows_are_matched(self):
        first = result(("a", "onnx", 1, 4.0), ("a", "onnx", 8, 9.0), ("b", "onnx", 1, 1.0))
        second = result(("b", "onnx", 1, 2.0), ("a", "onnx", 1, 2.0), cpu="two")
        found = compare_results(first, second)
        assert [(row["model"], row["p50_ms"], row["speed_up"]) for row in found["rows"]] == [
            ("a", [4.0, 2.0], 2.0), ("b", [1.0, 2.0], 0.5),
        ]  # fmt: skip
        assert found["only"] == [["a onnx 8"], []]
        assert found["notes"] == ["measured with another processor: one and two"]

    def test_one_model_each_is_compared_whatever_its_name(self):
        found = compare_results(result(("teacher", "onnx", 1, 4.0)), result(("student", "onnx", 1, 1.0)))
        assert [(row["model"], row["speed_up"]) for row in found["rows"]] == [("teacher → student", 4.0)]
        with pytest.raises(UserError, match="in common"):
            compare_results(result(("a", "onnx", 1, 4.0)), result(("a", "torch", 1, 4.0)))

    def test_lengths_are_shown_where_there_are_any(self):
        first = result(("a", "onnx", 1, 4.0))
        titles = [column.header for column in comparison_table(compare_results(first, first)["rows"]).columns]
        assert "batch" in titles and "tokens" not in titles

    @pytest.mark.parametrize("text", ["", "[]", '{"results": [{"model": "a"}]}', '{"results": 3}'])
    def test_other_files_are_refused(self, text, tmp_path):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(UserError, match="not a result of compress bench"):
            read_result(tmp_path / "r.json")


def test_the_command_on_any_file(capsys, foreign, tmp_path):
    again = shutil.copy(foreign, tmp_path / "again.onnx")
    options = ("--seconds", 0.01, "--batch-size", "1,2", "--length", "4", "--backends", "onnx", "--threads", 1)
    code, out, err = compress(capsys, "bench", foreign, again, *options, "-o", tmp_path / "r.json")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["table"] == [] and found["settings"]["threads"] == 1
    assert [(row["model"], row["batch_size"], row["length"]) for row in found["results"]] == [
        (model, batch, length) for batch in (1, 2) for length in (4,) for model in ("other.onnx", "again.onnx")
    ]
    assert "p99" in out and "peak MB" in out and "tokens" in out
    assert "with 1 thread, in turns" in out and "all in ms" in out
    code, _, err = compress(capsys, "bench", foreign, "-o", tmp_path / "r.json")
    assert code == 2 and "exists already" in err
    both = (tmp_path / "r.json", tmp_path / "r.json")
    code, out, _ = compress(capsys, "bench", "--compare", *both)
    assert code == 0 and "A / B" in out and "other.onnx" in out
    assert "A / B: how many times as fast B is, by p50" in out
    code, out, _ = compress(capsys, "bench", "--compare", *both, "--json")
    assert code == 0 and [row["speed_up"] for row in json.loads(out)["rows"]] == [1.0] * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a model"),
        (["m", "--batch-size", "0"], "--batch-size"),
        (["m", "--length", "x"], "--length"),
        (["m", "--backends", "tensorrt"], "unknown backend 'tensorrt' (known: torch, torch-compile, onnx"),
        (["none.onnx"], "no ONNX file at none.onnx"),
        (["m", "--compare", "a", "b"], "--compare measures nothing"),
        (["--compare", "a", "b"], "cannot read a"),
        (["m", "-o", "nowhere/r.json"], "there is no folder nowhere"),
    ],
)
def test_bad_input(capsys, arguments, said):
    code, out, err = compress(capsys, "bench", *arguments)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1
