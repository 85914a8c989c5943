"""That the frontier takes each shape of a report once, by the heads that the timed files are named after."""

import pytest

from benchmarks.deploy.frontier import TriedShape, draw, heads_of, tried_shapes


def test_shapes_of_a_report():
    choices = {
        "attention": "12 heads of 8",
        "shapes": [
            {"candidate": "12 heads of 8, transport", "held_out_kl": 0.4, "relative_time": 1.2},
            {"candidate": "6 heads of 16, components of a", "held_out_kl": 0.3, "relative_time": 1.0},
            {"candidate": "12 heads of 8, components of a, b", "held_out_kl": 0.1, "relative_time": 1.2},
        ],
    }
    assert tried_shapes(choices) == [TriedShape("12 heads of 8", 0.1, True), TriedShape("6 heads of 16", 0.3, False)]
    assert heads_of("4 heads of 32 (rotary base 1e+04), transport") == "4 heads of 32"
    with pytest.raises(ValueError, match="no heads"):
        heads_of("no attention, transport")


def test_the_figure_is_the_same_again(tmp_path):
    shapes = [TriedShape("12 heads of 8", 0.1, True), TriedShape("6 heads of 16", 0.3, False)]
    times = {1: {"teacher": 4.0, "12 heads of 8": 2.0, "6 heads of 16": 1.0}}
    for name in ("a.svg", "b.svg"):
        draw(shapes, times, 1, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second and b"<svg" in first
