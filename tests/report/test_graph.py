"""The picture of a flow graph: it is complete, legible, and written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from command import compress
from families import family_params
from transformers import AutoConfig

from compressor.anatomy import inspect_config
from compressor.anatomy.sites import flow_graph
from compressor.errors import UnsupportedError, UserError
from compressor.report.graph.model_graph import _folded, build_graph
from compressor.report.graph.svg import draw_svg, write_drawing
from compressor.report.text_width import text_width
from compressor.testing.tiny_configs import tiny_config

SVG = "{http://www.w3.org/2000/svg}"
#: Families whose stream cannot be cut.
WHOLE = {"albert", "mixtral"}


def drawn(family, **values):
    """(root of the picture, anatomy)."""
    anatomy = inspect_config(tiny_config(family, **values))
    return ElementTree.fromstring(draw_svg(build_graph(family, anatomy))), anatomy


@pytest.fixture(scope="module", params=family_params())
def picture(request):
    return request.param, *drawn(request.param)


def groups(root, name):
    return [group for group in root.iter(f"{SVG}g") if group.get("class") == name]


def words(element):
    return "".join(element.itertext())


def tips(root, name="edge"):
    """First lines of what a pointer that rests on an edge is told: the keys of maps."""
    return [group.findtext(f"{SVG}title").split("\n")[0] for group in groups(root, name)]


def number(element, name):
    return float(element.get(name))


def box_of_node(group):
    rect, circle = group.find(f"{SVG}rect"), group.find(f"{SVG}circle")
    if rect is None:
        x, y, r = (number(circle, name) for name in ("cx", "cy", "r"))
        return x - r, y - r, x + r, y + r
    x, y, width, height = (number(rect, name) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def box_of_text(text):
    x, y, size = (number(text, name) for name in ("x", "y", "font-size"))
    width = text_width(words(text), size)
    left = x - width / 2 if text.get("text-anchor") == "middle" else x
    return left, y - size, left + width, y + 3


def apart(one, other):
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def inside(box, outer):
    return box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3]


def view_of(root):
    return tuple(float(part) for part in root.get("viewBox").split())


def node_names(root):
    return [words(group.find(f"{SVG}text")) for group in groups(root, "node") if group.find(f"{SVG}text") is not None]


def test_every_site_of_the_stream_is_an_edge(picture):
    family, root, anatomy = picture
    if family in WHOLE:
        with pytest.raises(UnsupportedError):
            flow_graph(anatomy)
        assert {space.name for space in anatomy.residuals} <= set(tips(root))
    else:
        cut = flow_graph(anatomy)
        met = {part.key for axes in cut.anatomy.axes.values() for axis in axes for part in axis.parts}
        sites = {*cut.entries, *(key for j in cut.junctions for key in (j.before, *j.branches, j.after))}
        assert sites == met & {space.name for space in cut.anatomy.residuals}
        assert sites <= set(tips(root))


def test_every_inner_map_is_an_edge(picture):
    _, root, anatomy = picture
    inner = {p.key for axes in anatomy.axes.values() for axis in axes for p in axis.parts if p.key}
    # A bias for every head is told of by the attention that it belongs to.
    biases = {key for key in inner if key.endswith("/heads")}
    told = " ".join(words(group) for group in groups(root, "node"))
    names = {name for name, axes in anatomy.axes.items() for axis in axes for p in axis.parts if p.key in biases}
    assert all(name in told for name in names)
    streams = {space.name for space in anatomy.residuals}
    assert inner - biases - streams <= set(tips(root))


def test_every_operation_is_a_node(picture):
    _, root, anatomy = picture
    told = {group.findtext(f"{SVG}title") for group in groups(root, "node")}
    assert {item.module for item in anatomy.flow} <= told


def test_every_edge_has_its_label(picture):
    _, root, _ = picture
    edges, labels = tips(root), tips(root, "label")
    assert set(edges) == set(labels)
    # The memory of an encoder forks; only one of its ends says so.
    assert 0 <= len(edges) - len(labels) <= 1


def test_all_type_is_in_the_picture(picture):
    _, root, _ = picture
    view = view_of(root)
    assert view[2] <= 1280
    texts = list(root.iter(f"{SVG}text"))
    assert len(texts) > 20
    assert all(inside(box_of_text(text), view) for text in texts)
    assert all(inside(box_of_node(group), view) for group in groups(root, "node"))


def test_nothing_is_on_top_of_something_else(picture):
    _, root, _ = picture
    nodes = [box_of_node(group) for group in groups(root, "node")]
    labels = [box_of_text(group.find(f"{SVG}text")) for group in (*groups(root, "label"), *groups(root, "legend"))]
    for one, other in combinations((*nodes, *labels), 2):
        assert apart(one, other), (one, other)


def test_names_fit_their_boxes(picture):
    _, root, _ = picture
    for group in groups(root, "node"):
        assert all(inside(box_of_text(text), box_of_node(group)) for text in group.iter(f"{SVG}text"))


def test_edges_are_upright_and_enter_their_nodes(picture):
    _, root, _ = picture
    nodes = [box_of_node(group) for group in groups(root, "node")]
    for group in groups(root, "edge"):
        path = group.findall(f"{SVG}path")[-1]
        points = [tuple(map(float, point.split())) for point in path.get("d").removeprefix("M").split("L")]
        for (x, y), (a, b) in pairwise(points):
            assert math.isclose(x, a, abs_tol=0.01) or math.isclose(y, b, abs_tol=0.01)
        if path.get("marker-end"):
            x, y = points[-1]
            touched = [n for n in nodes if n[0] - 0.01 <= x <= n[2] + 0.01 and n[1] - 0.01 <= y <= n[3] + 0.01]
            assert len(touched) == 1


def test_norms_stand_where_they_work():
    """BERT's on the stream, behind the sums; ViT's before the branches; Gemma's on both ends of a branch."""
    spine = {}
    for family in ("bert", "vit", "gemma2"):
        root, _ = drawn(family)
        sums = {box_of_node(g)[0] + 10 for g in groups(root, "node") if g.find(f"{SVG}circle") is not None}
        (x,) = sums
        norms = [g for g in groups(root, "node") if "orm" in (g.findtext(f"{SVG}title") or "")]
        spine[family] = sum(math.isclose(sum(box_of_node(g)[::2]) / 2, x, abs_tol=0.1) for g in norms), len(norms)
    assert spine == {"bert": (5, 5), "vit": (1, 5), "gemma2": (1, 9)}


def test_parallel_branches_meet_in_one_sum():
    root, anatomy = drawn("gpt-neox")
    sums = [group for group in groups(root, "node") if group.find(f"{SVG}circle") is not None]
    assert len(sums) == len(anatomy.layers)


def config_beyond_the_table(kind, architecture, **values):
    config = AutoConfig.for_model(kind, vocab_size=60, bos_token_id=1, eos_token_id=2, **values)
    config.architectures = [architecture]
    return config


def test_branches_that_share_a_norm_are_drawn_beside_each_other():
    config = config_beyond_the_table(
        "gptj", "GPTJForCausalLM", n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=40
    )
    anatomy = inspect_config(config)
    root = ElementTree.fromstring(draw_svg(build_graph("gptj", anatomy)))
    test_nothing_is_on_top_of_something_else(("gptj", root, anatomy))
    assert node_names(root).count("ln_1") == 2
    assert sum(group.find(f"{SVG}circle") is not None for group in groups(root, "node")) == 2


def test_shared_experts_meet_the_stream_with_the_others():
    config = config_beyond_the_table(
        "qwen2_moe", "Qwen2MoeForCausalLM", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, num_key_value_heads=2, num_experts=4, moe_intermediate_size=24,
        shared_expert_intermediate_size=40, max_position_embeddings=40,
    )  # fmt: skip
    anatomy = inspect_config(config)
    root = ElementTree.fromstring(draw_svg(build_graph("moe", anatomy)))
    test_nothing_is_on_top_of_something_else(("moe", root, anatomy))
    test_every_operation_is_a_node(("moe", root, anatomy))
    assert node_names(root).count("down_proj") == 4
    assert sum(group.find(f"{SVG}circle") is not None for group in groups(root, "node")) == 4


def test_cross_attention_reads_the_end_of_the_encoder():
    root, anatomy = drawn("t5")
    last = flow_graph(anatomy).last[0]
    # The last norm of the encoder, the trunk to either side of it, and keys and values of two layers.
    assert tips(root).count(last) >= 6
    assert node_names(root).count("cross-attention") == 2
    assert node_names(root).count("attention") == 4


def test_deep_models_are_folded():
    root, anatomy = drawn("vit", num_hidden_layers=12)
    assert [words(group.find(f"{SVG}text")) for group in groups(root, "layer")] == ["layer 0", "layer 1", "layer 11"]
    assert "… 9 more layers" in node_names(root)
    cut = flow_graph(anatomy)
    shown = {cut.entries[0], cut.last[0]}
    assert shown <= set(tips(root))


def test_what_differs_is_not_folded():
    """A stack of four is drawn whole, and what would stand for one layer only."""
    assert len(groups(drawn("modernbert")[0], "layer")) == 4
    assert len(groups(drawn("vit", num_hidden_layers=4)[0], "layer")) == 4
    assert len(groups(drawn("vit", num_hidden_layers=6)[0], "layer")) == 3
    assert _folded("abbcbba") == [range(0, 1), range(1, 2), range(2, 3), *(range(i, i + 1) for i in range(3, 7))]
    assert _folded("abbbcba") == [range(0, 1), range(1, 2), range(2, 4), *(range(i, i + 1) for i in range(4, 7))]


def test_one_map_for_a_stream_that_cannot_be_cut():
    root, _ = drawn("albert", num_hidden_layers=12)
    assert "one map T" in words(root)
    assert "layer 0, runs 12 times" in words(root)
    assert "4 experts × 48" in words(drawn("mixtral")[0])


def test_names_are_escaped():
    anatomy = inspect_config(tiny_config("vit"))
    assert "a<b>&c" in words(ElementTree.fromstring(draw_svg(build_graph("a<b>&c", anatomy))))


def test_no_graph_without_a_flow():
    from dataclasses import replace

    anatomy = replace(inspect_config(tiny_config("vit")), flow=())
    with pytest.raises(UnsupportedError, match="no graph of vit can be drawn"):
        build_graph("vit", anatomy)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    tiny_config("vit").save_pretrained(folder)
    return folder


def test_the_command_draws(capsys, model, tmp_path):
    path = tmp_path / "graph.svg"
    code, out, err = compress(capsys, "inspect", model, "--graph", path)
    assert (code, err) == (0, "")
    assert f"flow graph: {path}" in out
    assert "model: ViTForImageClassification" in words(ElementTree.parse(path).getroot())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph.svg", "model"]


def test_the_command_says_it_to_machines(capsys, model, tmp_path):
    path = tmp_path / "graph.SVG"
    code, out, err = compress(capsys, "inspect", model, "--graph", path, "--json")
    assert (code, err, json.loads(out)["graph"]) == (0, "", str(path))
    assert path.is_file()


def test_nothing_is_overwritten_unless_forced(capsys, model, tmp_path):
    path = tmp_path / "graph.svg"
    path.write_text("old")
    code, out, err = compress(capsys, "inspect", model, "--graph", path)
    assert (code, out, path.read_text()) == (2, "", "old")
    assert "--force" in err
    assert err.count("\n") == 1
    assert compress(capsys, "inspect", model, "--graph", path, "--force")[0] == 0
    assert path.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("graph.png", "ends in .svg"),
        ("graph", "ends in .svg"),
        ("none/graph.svg", "no folder"),
        ("f.svg", "not a plain file"),
    ],
)
def test_bad_places_are_one_line(capsys, model, tmp_path, name, said):
    (tmp_path / "f.svg").mkdir()
    code, out, err = compress(capsys, "inspect", model, "--graph", tmp_path / name, "--force")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.svg", "model"]


def test_force_needs_a_graph(capsys, model):
    code, _, err = compress(capsys, "inspect", model, "--force")
    assert code == 2
    assert "--graph" in err


def test_a_bad_place_is_told_before_the_model_is_looked_for(capsys, tmp_path):
    assert "ends in .svg" in compress(capsys, "inspect", tmp_path / "none", "--graph", tmp_path / "graph.gif")[2]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "graph.svg"
    path.write_text("old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left"):
        write_drawing(path, "new", force=True)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
