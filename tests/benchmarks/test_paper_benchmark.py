"""The paper's tables: measured once, resumed, and written as a page."""

from __future__ import annotations

import json

import pytest
from tiny import save_vit

from benchmarks.baselines.contenders import RANDOM
from benchmarks.baselines.contest import hold
from benchmarks.baselines.curves import draw
from benchmarks.baselines.figures import cell
from benchmarks.baselines.pages import page as contest_page
from benchmarks.baselines.settings import EVENTS, Event
from benchmarks.baselines.short import elsewhere
from benchmarks.common.results import Store
from benchmarks.common.setting import Arena, Places, Setting
from benchmarks.cost.memory import peak_above
from benchmarks.paper import tables
from benchmarks.paper.pages import page
from benchmarks.paper.settings import SETTINGS
from benchmarks.paper.tables import TABLES, Cell, Table
from benchmarks.paper.trials import RATES, Alone, Copied, Ensemble, Finetuned, Fused

pytestmark = pytest.mark.filterwarnings("ignore::compressor.errors.CouplingWarning")
HARD = {"solver": "emd"}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Three tiny ViTs and twelve pictures of each part."""
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image

    root = tmp_path_factory.mktemp("paper")
    for seed, name in enumerate(("one", "two", "narrow")):
        save_vit(root / "teachers" / name, seed=seed, hidden=32 if name != "narrow" else 16, heads=2)
    features = Features({"img": Image(), "label": ClassLabel(names=["cat", "dog", "ant", "bee"])})
    (root / "data" / "cifar10").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        rows = {
            "img": [draw.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(12)],
            "label": [0, 1, 2, 3] * 3,
        }
        Dataset.from_dict(rows, features=features).to_parquet(root / "data" / "cifar10" / f"{part}.parquet")
    (root / "scratch").mkdir()
    return Places((root / "teachers",), root / "data", root / "scratch")


@pytest.fixture(scope="module")
def arena(places):
    setting = Setting("tiny", (("one", "two"), ("two", "one")), "cifar10", anchors=("narrow",), samples=8, batch=4)
    return Arena(setting, places)


def test_each_seed_takes_its_own_teachers(arena):
    assert [name for name, _ in arena.teachers(0)] == ["one", "two"]
    assert [name for name, _ in arena.teachers(3)] == ["two", "one"]
    assert arena.anchor(5)[0] == "narrow"


def test_a_teacher_alone_scores_what_the_fusion_of_it_alone_scores(arena):
    alone = Alone(0).run(arena, 0, {})["score"]
    assert Fused("global", False, HARD, teachers=(0,)).run(arena, 0, {})["score"] == alone
    assert Ensemble(1).run(arena, 0, {})["score"] == alone


def test_the_loss_is_that_of_the_labels(arena):
    import torch

    model = arena.teachers(0)[0][1]
    (batch,) = arena._part("test")
    with torch.no_grad():
        wanted = torch.nn.functional.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"])
    found = arena.judge(model)
    assert found["score"] == arena.score(model)
    assert found["loss"] == pytest.approx(float(wanted), abs=1e-5)


def test_a_permuted_copy_changes_nothing_when_maps_are_hard(arena):
    assert Copied(Fused("averaging", False, HARD)).run(arena, 0, {})["error"] < 1e-5
    soft = {"solver": "sinkhorn", "epsilon": 10.0}
    assert Copied(Fused("averaging", False, soft)).run(arena, 0, {})["error"] > 1e-2


def test_the_first_seed_chooses_and_the_others_take_it(arena, monkeypatch):
    monkeypatch.setattr("benchmarks.paper.trials.EPSILONS", (0.3, 1.0))
    choices = {}
    soft = Fused("averaging", False, {"solver": "sinkhorn", "normalise": "max"})
    first = soft.run(arena, 0, choices)
    (key,) = choices
    assert first["epsilon"] == choices[key]
    choices[key] = 0.5
    assert soft.run(arena, 1, choices)["epsilon"] == 0.5


def test_labels_finetune_a_copy(arena):
    choices = {}
    found = Finetuned(Alone(0), 2).run(arena, 0, choices)
    assert found["rate"] in RATES
    (rate,) = choices.values()
    assert rate == found["rate"]
    untouched = Alone(0).run(arena, 0, {})
    assert untouched == Alone(0).run(arena, 0, {})


def test_a_table_goes_on_where_it_stopped_and_says_what_was_refused(arena, tmp_path):
    from benchmarks.paper.__main__ import _measure

    cells = [Cell("a", "x", Alone(0)), Cell("b", "y", Fused("identity", False, teachers=(0,), anchored=True))]
    table = Table("Tiny", "Said.", ("tiny",), lambda name: iter(cells), seeds=2)
    store = Store(tmp_path / "tiny.json")
    store.content |= {
        "command": "command",
        "environment": {"torch": 1, "transformers": 2, "pot": 3, "cpu": 4, "threads": 5},
    }
    store.put("tiny", "a", "x", 0, {"score": 40.0})
    _measure(table, arena, store, Store(tmp_path / "choices.json"), 2)
    assert store.get("tiny", "a", "x", 0) == {"score": 40.0}
    assert "anchor's width" in store.get("tiny", "b", "y", 1)["refused"]
    again = Store(tmp_path / "tiny.json")
    assert again.content["settings"] == json.loads((tmp_path / "tiny.json").read_text())["settings"]
    text = page(table, again, [arena.setting])
    assert "| b |  | refused |" in text and "| a | " in text and " ± " in text


def test_every_table_names_settings_and_measures_no_cell_twice():
    for name, table in TABLES.items():
        for setting in table.settings:
            assert setting in SETTINGS, name
            cells = [(cell.row, cell.column) for cell in table.cells(setting)]
            assert len(cells) == len(set(cells)), (name, setting)
    assert set(tables.TIED) <= set(SETTINGS)


def test_two_processes_measure_into_one_file(tmp_path):
    one, other = Store(tmp_path / "x.json"), Store(tmp_path / "x.json")
    rates = one.setting("s").setdefault("rates", {})
    one.put("s", "row", "0", 0, {"score": 1.0})
    other.put("s", "row", "0", 1, {"score": 2.0})
    rates["row"] = 0.1
    one.put("s", "row", "50", 0, {"score": 3.0})
    whole = Store(tmp_path / "x.json")
    assert [whole.get("s", "row", *cell)["score"] for cell in (("0", 0), ("0", 1), ("50", 0))] == [1.0, 2.0, 3.0]
    assert whole.setting("s")["rates"] == {"row": 0.1}
    # What was known stays what it was, and what others found is known from then on.
    assert one.get("s", "row", "0", 1) == {"score": 2.0}
    # What another one measures anew is not undone by who still knows the old.
    other.put("s", "row", "0", 0, {"score": 4.0})
    one.put("s", "row", "100", 0, {"score": 5.0})
    assert Store(tmp_path / "x.json").get("s", "row", "0", 0) == {"score": 4.0}
    # Nothing of what was measured before stays beside what takes its place.
    other.put("s", "row", "50", 0, {"score": 6.0, "former": "way"})
    one.put("s", "row", "50", 0, {"score": 7.0})
    assert Store(tmp_path / "x.json").get("s", "row", "50", 0) == {"score": 7.0}


def test_teachers_are_told_apart_by_their_weights(arena, places):
    again = Arena(arena.setting, places)
    assert arena.fingerprint(0) == again.fingerprint(2) != arena.fingerprint(1)


def test_only_students_of_the_same_teachers_are_compared(tmp_path):
    event = next(one for one in EVENTS.values() if one.setting.name == "small ViTs")
    store = Store(tmp_path / "students.json")
    store.content |= {"command": "c", "environment": {"torch": 1, "transformers": 2, "pot": 3, "cpu": "here"}}
    names = ("ours: automatic", "teacher 1 alone, our refit", "teacher 2 alone, our refit")
    for seed in range(3):
        store.put(event.name, "teachers", "0", seed, {"scores": [50.0, 51.0, 52.0], "validation": [48.0, 47.0, 49.0]})
        for name, score in zip(names, (51.0 + seed, 50.0, 49.0), strict=True):
            # Those of the last seed are of a pair trained elsewhere, but for ours.
            origin = f"{seed}" if seed < 2 or name == names[0] else "elsewhere"
            figures = {
                "score": score,
                "kl": 0.1 if name == names[0] else 0.12,
                "making": 1.0,
                "memory": 2_000_000,
                "teachers": origin,
                "cpu": "there",
            }
            store.put(event.name, name, "0", seed, figures)
    store.put(event.name, "neuron transplantation", "0", 0, {"refused": "no heads of 32"})
    text = contest_page(store)
    assert "neuron transplantation cannot: no heads of 32." in text
    assert "- of teacher 2: 0: +2.50 ± 0.50" in text and "- that the test favours: 0: +1.50 ± 0.50" in text
    assert "- of the better teacher by validation data: 0: +1.50 ± 0.50" in text
    assert "- with the lowest KL to the ensemble, in thousandths of a nat: 0: +20.00 ± 0.00" in text
    assert "lowest loss" not in text  # Older figures have none.
    assert "Measured on here and there." in text and "| 1 | 2 |" in text


def test_widths_stand_beside_each_other_with_the_better_of_a_group(tmp_path):
    store = Store(tmp_path / "students.json")
    for width, score in (("0.5", 50.0), ("0.25", 40.0)):
        event = f"BERTs, width {width}"
        store.put(event, "teachers", "0", 0, {"scores": [50.0, 51.0, 52.0]})
        store.put(event, "ours: automatic", "0", 0, {"score": score})
        for name, less in (("teacher 1 alone, our refit", 2), ("teacher 2 alone, our refit", 1)):
            store.put(event, name, "0", 0, {"score": score - less})
    store.put("Llamas, width 0.5", "teachers", "0", 0, {"scores": [50.0, 51.0, 52.0]})
    lines = elsewhere(store)
    assert lines[0].startswith("| BERTs, % | width 0.5: one-shot | width 0.5: 200 steps | width 0.25: one-shot |")
    assert lines[3:5] == [
        "| one teacher with our refit, the best one | 49.0 |  | 39.0 |  |",
        "| **ours** | 50.0 |  | 40.0 |  |",
    ]
    # One width alone has nothing beside it.
    assert not any("Llamas" in line for line in lines)


def test_a_rate_is_searched_by_whole_finetunes_once(arena, tmp_path, monkeypatch):
    rates = (1e-6, 1e-2)
    monkeypatch.setattr("benchmarks.baselines.contest.RATES", rates)
    event = Event(arena.setting, steps=(0, 3), seeds=2)
    store = Store(tmp_path / "students.json")
    store.put(event.name, RANDOM, "0", 0, {"score": 1.0})
    # Chosen by a shorter search: measured again, by itself and not with the one-shot figure.
    store.put(event.name, RANDOM, "3", 0, {"score": 2.0, "rate": 5.0})
    lines = list(hold(event, arena, store, [RANDOM], 2, None))
    assert [line.split(" | ")[-1].split(":")[0] for line in lines if RANDOM in line] == [
        "3 steps",
        "0 steps",
        "3 steps",
    ]
    found = [store.get(event.name, RANDOM, "3", seed) for seed in (0, 1)]
    assert found[0]["trial"] == 3 and found[0]["rate"] == found[1]["rate"] in rates
    assert store.get(event.name, RANDOM, "0", 0) == {"score": 1.0}
    assert not [line for line in hold(event, arena, store, [RANDOM], 2, None) if RANDOM in line]
    assert found[0]["temperature"] == 2 and "†" not in cell(store, event, RANDOM, 3)
    # Distilled at another temperature: told as such, and measured again.
    store.put(event.name, RANDOM, "3", 1, {**found[1], "temperature": 1.0})
    assert cell(store, event, RANDOM, 3).endswith(" †") and "†" not in cell(store, event, RANDOM, 0)
    assert len([line for line in hold(event, arena, store, [RANDOM], 2, None) if RANDOM in line]) == 1
    # Of a student that would be another one today: the same.
    store.put(event.name, RANDOM, "0", 0, {"score": 1.0, "former": "way"})
    assert cell(store, event, RANDOM, 0).endswith(" †")
    assert len([line for line in hold(event, arena, store, [RANDOM], 2, None) if RANDOM in line]) == 1
    assert "†" not in cell(store, event, RANDOM, 0)


def test_an_event_may_be_of_some_contenders_only(arena, tmp_path):
    event = Event(arena.setting, steps=(0,), seeds=1, only=(RANDOM,))
    lines = list(hold(event, arena, Store(tmp_path / "students.json"), ["slices, by importance", RANDOM], 1, None))
    assert [line.split(" | ")[2] for line in lines[1:]] == [RANDOM]


def test_curves_are_drawn_of_what_was_measured_thrice(tmp_path):
    store = Store(tmp_path / "students.json")
    for event, counts in (("ViTs, width 0.5", (0, 50, 100)), ("BERTs, width 0.5", (0, 50))):
        store.put(event, "teachers", "0", 0, {"scores": [50.0, 51.0, 52.0]})
        for name, score in (("ours: automatic", 50.0), ("Torch-Pruning, Taylor, whole heads", 40.0)):
            for count in counts:
                store.put(event, name, str(count), 0, {"score": score + count / 100})
    draw(store, tmp_path)
    assert {file.name for file in tmp_path.glob("*.svg")} == {"vits-width-05.svg", "overview.svg"}
    drawn = (tmp_path / "overview.svg").read_text(encoding="utf-8")
    assert "ViTs" in drawn and "BERTs" not in drawn
    # A page that is written again has no other pictures.
    draw(store, tmp_path)
    assert (tmp_path / "overview.svg").read_text(encoding="utf-8") == drawn


def test_peak_memory_is_that_of_the_work_alone():
    import torch

    held = torch.ones(4_000_000)
    with peak_above() as peak:
        del held
        gone = torch.ones(10_000_000)
        del gone
    assert peak.bytes is None or 20e6 < peak.bytes < 60e6
