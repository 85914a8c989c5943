"""That joules are of packages alone, counters may start again, and a machine without counters says nothing."""

import pytest
from rich.console import Console

from compressor.bench.energy import EnergyMeter
from compressor.report.tables import latency_table


def zone(root, name, value, largest=1_000_000_000):
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{value}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")
    return folder / "energy_uj"


def test_joules_of_all_packages(tmp_path):
    first, second = zone(tmp_path, "intel-rapl:0", 5_000_000), zone(tmp_path, "intel-rapl:1", 0)
    part = zone(tmp_path, "intel-rapl:0:0", 0)
    meter = EnergyMeter(tmp_path)
    first.write_text("7000000")
    second.write_text("500000")
    # A part of a package is in it already.
    part.write_text("900000")
    assert meter.joules() == pytest.approx(2.5)
    assert meter.joules() == 0.0


def test_a_counter_starts_again(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", 9_000_000, largest=10_000_000)
    meter = EnergyMeter(tmp_path)
    counter.write_text("2000000")
    assert meter.joules() == pytest.approx(3.0)


def test_a_machine_without_counters(tmp_path):
    assert EnergyMeter(tmp_path).joules() is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert EnergyMeter(tmp_path).joules() is None


def test_the_table_has_millijoules_where_there_are_any():
    row = {"model": "a", "backend": "onnx", "batch_size": 1, "length": None, "peak_memory_bytes": 1e6}
    row |= dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "first_call_ms", "load_ms"), 1.0)

    def shown(*rows):
        console = Console(width=120)
        with console.capture() as capture:
            console.print(latency_table(rows))
        return capture.get()

    assert "mJ" not in shown(row) and "mJ" not in shown(row | {"joules": None})
    assert "mJ" in (text := shown(row | {"joules": 0.0125}, row)) and "12.5" in text and "–" in text
