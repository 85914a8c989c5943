"""Inputs made to hang a program or to fill its memory: each is refused in one line, within seconds."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
from command import compress
from tiny import save_images

#: Seconds that any of these may take; what hangs never ends by itself.
LIMIT = 60


class TooLong(BaseException):
    """No error that the command could take for one of its own."""


@pytest.fixture(autouse=True)
def _time_limit():
    def stop(*_):
        raise TooLong(f"this took more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *arguments, said):
    """Run a command that must be refused in one short line."""
    code, out, err = compress(capsys, *arguments)
    assert (code, out) == (2, ""), err[:500]
    assert err.startswith("error: ") and err.count("\n") == 1, err[:500]
    assert len(err) < 2100, len(err)
    assert said in err, err
    return err


def put(kind, path):
    """Make something that is no regular file; what the refusal calls it."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        here = Path.cwd()
        # A socket's address is shorter than a path may be.
        os.chdir(path.parent)
        socket.socket(socket.AF_UNIX).bind(path.name)
        os.chdir(here)
    return kind


KINDS = ("pipe", "device", "socket")


# Recipes


def laughs(levels, width=9):
    """YAML of a few lines that stands for width ** levels values."""
    lines = [f"a0: &a0 [{','.join(['lol'] * width)}]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"teachers: *a{levels - 1}"])


def merges(levels, width=9):
    """The same with merged mappings."""
    lines = ["b0: &b0 {" + ", ".join(f"k{i}: 1" for i in range(50)) + "}"]
    lines += [f"b{i}: &b{i}\n  <<: [{', '.join([f'*b{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join([*lines, "teachers: [vit-a]"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs(5), "more than 20000 values"),
        (laughs(12), "more than 20000 values"),
        (merges(12), "more than 20000 values"),
        ("teachers: &a [*a]", "contains itself"),
        ("&a\nteachers: [vit-a]\ndata: *a", "contains itself"),
        ("teachers: " + "[" * 5000 + "]" * 5000, "nested deeper than 32 levels"),
        ("teachers: " + "[" * 100_000, "nested deeper than 32 levels"),
        ("teachers: " + "{a: " * 3000 + "1" + "}" * 3000, "nested deeper than 32 levels"),
        ("teachers: [vit-a]\n" + "".join(f"k{i}: 1\n" for i in range(30_000)), "MiB"),
        ("teachers: [vit-a]\n" + "".join(f"k{i}: 1\n" for i in range(9_000)), "and 8992 more"),
        ("teachers: [vit-a]\noutput: " + "x" * 300_000, "MiB"),
        ("teachers: [vit-a]\nseed: " + "y" * 100_000, "seed: input should be a valid integer"),
        ("teachers: [vit-a]\nseed: " + "9" * 4000, "seed: input should be less than"),
        ("teachers: [vit-a]\nseed: " + "9" * 5000, "is not YAML"),
        ("teachers: [vit-a]\nseed: 0x" + "f" * 50_000, "seed: "),
        ("teachers: [vit-a]\nseed: " + "1:" * 20_000 + "1", "seed: "),
        ("teachers: [vit-a]\nwidth: 0x" + "f" * 50_000, "width: "),
        ("teachers: [vit-a]\nseed: 2001-99-99", "is not YAML"),
        ("teachers: [vit-a]\n? " + "y" * 900 + "\n: 1\n? " + "y" * 900 + "\n: 1", "is there twice"),
    ],
    ids=lambda value: value[:12] if len(value) > 40 else "",
)
def test_recipe_beyond_bounds(capsys, here, text, said):
    Path("r.yaml").write_text(text)
    refused(capsys, "run", "r.yaml", said=said)


def test_aliases_of_a_sane_number_are_read(here):
    from compressor.recipe import read_recipe

    Path("r.yaml").write_text("teachers: &t [a, b]\nfusion: {weights: &w [1, 2]}\nfinetune: {learning_rates: *w}\n")
    assert read_recipe("r.yaml").finetune.learning_rates == (1.0, 2.0)


@pytest.mark.parametrize("kind", KINDS)
def test_recipe_that_is_no_file(capsys, here, kind):
    refused(capsys, "run", "r.yaml", said=put(kind, here / "r.yaml"))


def test_recipe_of_gigabytes(capsys, here):
    with open("r.yaml", "wb") as file:
        file.truncate(1 << 40)
    refused(capsys, "run", "r.yaml", said="MiB")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("command", "file"), [(("report", "."), "report.json"), (("bench", "--compare", "b", "b"), "b")]
)
def test_results_that_are_no_files(capsys, here, command, file, kind):
    refused(capsys, *command, said=put(kind, here / file))


@pytest.mark.parametrize(
    "arguments",
    [
        ("fuse", "LONG"),
        ("fuse", "MODEL", "--output", "LONG"),
        ("fuse", "MODEL", "--data", "LONG"),
        ("fuse", "MODEL", "--data", "LONG/LONG"),
        ("fuse", "MODEL", "--anchor", "LONG"),
        ("fuse", "MODEL", "--device", "LONG"),
        ("fuse", "MODEL", "--residual", "LONG"),
        ("fuse", "MODEL", "--preset", "LONG"),
        ("fuse", "MODEL", "--LONG"),
        ("inspect", "LONG"),
        ("plan", "LONG/LONG"),
        ("report", "LONG"),
        ("run", "LONG"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("word", ["y" * 100_000, "yy " * 30_000], ids=["word", "words"])
def test_flags_of_any_length(capsys, here, vit_a, arguments, word):
    refused(capsys, *(a.replace("MODEL", str(vit_a)).replace("LONG", word) for a in arguments), said="yy")


# Configs


def with_config(folder, target, change):
    """A copy of a model's folder with another config.json: fields to replace, or the text."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    text = change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change})
    path.write_text(text)
    return target


HUGE = {
    "width": {"hidden_size": 10**9},
    "layers": {"num_hidden_layers": 10**7},
    "more-layers": {"num_hidden_layers": 10**30},
    "heads": {"num_attention_heads": 10**9},
    "units": {"intermediate_size": 10**10},
    "image": {"image_size": 10**6},
    "image-pair": {"image_size": [10**9, 10**9]},
    "patches": {"image_size": 8000, "patch_size": 1},
    "channels": {"num_channels": 10**9},
    "classes": {"num_labels": 10**9, "id2label": None},
    "names": {"id2label": {str(i): "c" for i in range(300_000)}},
    "inner": {"text_config": {"num_hidden_layers": 10**7}},
    "list": {"hidden_sizes": [32, [10**9]]},
    "parameters": {"hidden_size": 1 << 18, "intermediate_size": 1 << 21, "num_hidden_layers": 512},
    "bytes": {"x": "y" * (17 << 20)},
    "deep": '{"model_type": "vit", "a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deeper": '{"model_type": "vit", "a": ' + '{"b":' * 400 + "1" + "}" * 400 + "}",
    "digits": '{"model_type": "vit", "hidden_size": ' + "9" * 100_000 + "}",
    "kind": json.dumps({"model_type": "x" * 1_000_000}),
    "class": json.dumps({"model_type": "vit", "architectures": ["x" * 1_000_000]}),
}


@pytest.mark.parametrize("command", ["plan", "inspect", "fuse"])
@pytest.mark.parametrize("change", HUGE)
def test_config_beyond_bounds(capsys, here, vit_a, command, change):
    with_config(vit_a, here / "t", HUGE[change])
    refused(capsys, command, "t", said="config.json" if change != "class" else "xxx")
    assert sorted(path.name for path in here.iterdir()) == ["t"]


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("clip", "CLIPModel"), ("llava", "LlavaForConditionalGeneration"), ("siglip", "SiglipModel")],
)
@pytest.mark.parametrize(("field", "number"), [("num_hidden_layers", 10**7), ("hidden_size", 10**9)])
def test_configs_inside_of_configs(capsys, here, kind, architecture, field, number):
    Path("t").mkdir()
    for inner in ("text_config", "vision_config"):
        values = {"model_type": kind, "architectures": [architecture], inner: {field: number}}
        Path("t", "config.json").write_text(json.dumps(values))
        refused(capsys, "inspect", "t", said=inner)


def test_positions_with_a_table_of_their_own(capsys, here, bert):
    """Within the bounds of a config, and yet too many for a model that is built to be looked at."""
    with_config(bert, here / "t", {"max_position_embeddings": 1 << 27})
    refused(capsys, "inspect", "t", said="smallest model")


def test_fields_of_any_name_count_modules(vit_a, monkeypatch):
    from compressor.errors import UnsupportedError
    from compressor.models import meta
    from compressor.models.resolve import load_config

    monkeypatch.setattr(meta, "MAX_MODULES", 20)
    with pytest.raises(UnsupportedError, match="more than 20 modules"):
        meta.meta_model(load_config(str(vit_a)))


def test_largest_public_models_are_within_bounds():
    from compressor.models.configs.bounds import check_sizes

    for values in (
        # Llama 3.1 405B, Llama 4 Scout's positions.
        {"hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128, "intermediate_size": 53248,
         "vocab_size": 128256, "max_position_embeddings": 10_485_760},
        # DeepSeek V3 671B, Kimi K2's experts.
        {"hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "intermediate_size": 18432,
         "moe_intermediate_size": 2048, "n_routed_experts": 384, "vocab_size": 163840},
        # Switch-C, Qwen3-Next's 512 experts, XLM-V and Gemma 3's vocabularies.
        {"d_model": 2080, "num_layers": 15, "num_heads": 64, "d_ff": 6144, "num_experts": 2048, "vocab_size": 32128},
        {"hidden_size": 2048, "num_hidden_layers": 48, "num_experts": 512, "intermediate_size": 5120},
        {"hidden_size": 768, "num_hidden_layers": 12, "vocab_size": 901_629},
        {"text_config": {"hidden_size": 5376, "num_hidden_layers": 62, "vocab_size": 262_208}},
        # ViT-22B, SAM, and ImageNet-22k's classes.
        {"hidden_size": 6144, "num_hidden_layers": 48, "intermediate_size": 24576, "image_size": 224, "patch_size": 14},
        {"id2label": {str(i): "name" for i in range(21_843)}, "image_size": 1024, "patch_size": 4},
    ):  # fmt: skip
        check_sizes(values, "a model")


def test_defaults_of_transformers_are_within_bounds():
    from transformers import CONFIG_MAPPING

    from compressor.models.configs.bounds import check_sizes

    for kind in ("bert", "clip", "deepseek_v3", "dinov2", "gpt2", "gpt_neox", "llama", "mixtral", "mt5", "swin",
                 "switch_transformers", "vit", "wav2vec2", "whisper", "qwen3_moe", "beit", "segformer"):  # fmt: skip
        check_sizes(CONFIG_MAPPING[kind]().to_dict(), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "preprocessor_config.json", "generation_config.json"]
)
def test_files_of_a_teacher_that_are_no_files(capsys, here, vit_a, file, kind):
    shutil.copytree(vit_a, "t")
    Path("t", file).unlink(missing_ok=True)
    said = put(kind, here / "t" / file)
    refused(capsys, "fuse", "t", said=said)
    refused(capsys, "plan", "t", said=file)


def test_tokenizers_beyond_bounds(capsys, here, bert):
    for change, said in (
        (b"[" * 1_000_000, "preprocessor of t"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "preprocessor of t"),
    ):
        shutil.copytree(bert, "t")
        Path("t/tokenizer.json").write_bytes(change)
        refused(capsys, "fuse", "t", said=said)
        shutil.rmtree("t")
    shutil.copytree(bert, "t")
    with open("t/tokenizer.json", "wb") as file:
        file.truncate(1 << 40)
    refused(capsys, "fuse", "t", said="MiB")


# Data


def fuse(capsys, model, source, said):
    options = ("--no-onnx", "--no-finetune", "--samples", "8", "--output", "student")
    line = refused(capsys, "fuse", model, "--data", source, *options, said=said)
    assert not Path("student").exists()
    return line


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_are_no_files(capsys, here, vit_a, kind):
    save_images(here / "i", per_class=2)
    said = put(kind, here / "i" / "cat" / "zz.png")
    line = fuse(capsys, vit_a, "i", said)
    assert "i/cat/zz.png" in line


def test_a_folder_that_is_called_like_an_image_is_a_folder(here):
    from compressor.data.sources import open_split
    from compressor.recipe import DataOptions

    save_images(here / "i", per_class=2)
    Path("i/cat/zz.png").mkdir()
    assert len(open_split(DataOptions(source="i"), "train")) + len(open_split(DataOptions(source="i"), "eval")) == 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["i", "i/*.csv", "i/b.csv"])
def test_tables_that_are_no_files(capsys, here, bert, source, kind):
    Path("i").mkdir()
    Path("i/a.csv").write_text("text,label\ngood,positive\nbad,negative\n")
    fuse(capsys, bert, source, said=put(kind, here / "i" / "b.csv"))


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_table_that_are_no_files(capsys, here, vit_a, kind):
    save_images(here / "i", per_class=2)
    said = put(kind, here / "zz.png")
    Path("table.csv").write_text("image,label\n" + f"{here}/i/cat/0.png,cat\n" * 9 + f"{here}/zz.png,dog\n" * 9)
    fuse(capsys, vit_a, "table.csv", said)


def test_images_at_an_address_are_not_fetched():
    from compressor.data.images.decode import decode

    for path in ("https://example.org/0.png", "zip://0.png::archive.zip"):
        with pytest.raises(ValueError, match="address"):
            decode({"path": path, "bytes": None}, "RGB")


@pytest.mark.parametrize("kind", KINDS)
def test_work_to_go_on_from_that_is_no_file(capsys, here, vit_a, kind):
    from compressor.pipeline.run.state import _MARK

    save_images(here / "i", per_class=2)
    (here / "s.work").mkdir()
    (here / "s.work" / _MARK).touch()
    said = put(kind, here / "s.work" / "state.json")
    refused(capsys, "fuse", vit_a, "--data", "i", "--no-onnx", "--no-latency", "-o", "s", "--resume", said=said)


def png(size, mode="L", format="PNG", **options):
    from PIL import Image

    content = io.BytesIO()
    Image.new(mode, size, 7).save(content, format, **options)
    return content.getvalue()


def test_pixels_are_bounded(monkeypatch):
    from compressor.data.images import decode as module

    monkeypatch.setattr(module, "MAX_PIXELS", 100 * 100)
    assert module.decode({"bytes": png((100, 100))}, "L").size == (100, 100)
    with pytest.raises(ValueError, match="101 × 100 pixels"):
        module.decode({"bytes": png((101, 100))}, "L")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "GIF"])
@pytest.mark.parametrize("size", [(64, 64), (63, 80), (4000, 1), (1, 4000)])
def test_large_images_are_made_smaller_as_they_are_read(monkeypatch, format, size):
    from compressor.data.images import decode as module

    content = {"bytes": png(size, format=format)}
    whole = module.decode(content, "L")
    monkeypatch.setattr(module, "LARGE_PIXELS", 1000)
    smaller = module.decode(content, "L")
    assert whole.size == size
    assert smaller.width * smaller.height <= 1000 + size[0] + size[1]
    assert smaller.getpixel((0, 0)) == pytest.approx(7, abs=1)
    if min(size) > 1:
        assert smaller.width / smaller.height == pytest.approx(size[0] / size[1], rel=0.1)


def test_a_turned_image_stays_turned(monkeypatch):
    from PIL import Image

    from compressor.data.images import decode as module

    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    for format in ("JPEG", "PNG", "TIFF"):
        content = {"bytes": png((80, 40), format=format, exif=exif)}
        assert module.decode(content, "L").size == (40, 80)
        with monkeypatch.context() as patch:
            patch.setattr(module, "LARGE_PIXELS", 900)
            smaller = module.decode(content, "L")
        assert smaller.height == 2 * smaller.width


def test_large_images_are_not_all_held_at_once(here, vit_a, monkeypatch):
    """A batch of them is preprocessed in parts: to the same pixels, while few are decoded."""
    import torch
    from transformers import ViTImageProcessorPil

    from compressor.data.batches import Batches
    from compressor.data.readers import images as module
    from compressor.data.sources import open_split
    from compressor.recipe import DataOptions

    save_images(here / "i", per_class=4, size=40)
    split = open_split(DataOptions(source="i"), "train")
    processor = ViTImageProcessorPil.from_pretrained(vit_a)
    (whole,) = Batches(split, processor, len(split), labels=False)
    held, most = [], 0

    def counted(self, images, *more):
        nonlocal most
        most = max(most, len(images))
        held.append(len(images))
        return plain(self, images, *more)

    plain = module.ImageReader._preprocess
    monkeypatch.setattr(module.ImageReader, "_preprocess", counted)
    monkeypatch.setattr(module, "LARGE_PIXELS", 3 * 40 * 40)
    (parts,) = Batches(split, processor, len(split), labels=False)
    assert sum(held) == len(split) and most == 3
    assert torch.equal(whole["pixel_values"], parts["pixel_values"])


def test_a_line_without_end(capsys, here, bert, monkeypatch):
    from compressor.data.files import table_checks as tables

    monkeypatch.setattr(tables, "LINE_BYTES", 1 << 20)
    monkeypatch.setattr(tables, "TEXT_BYTES", 1 << 20)
    body = b"y " * (1 << 20)
    for name, content in {
        "a.csv": b"text,label\n" + body + b",positive\n",
        "a.tsv": body + b"\tpositive\n",
        "a.jsonl": b'{"label": "positive", "text": "' + body + b'"}\n',
        "a.txt": body,
    }.items():
        Path(name).write_bytes(content)
        fuse(capsys, bert, name, said="line of more than 1 MiB")
    # Shorter ones are read, wherever they lie.
    Path("b.csv").write_bytes(b"text,label\n" + b"good,positive\nbad,negative\n" * 100_000)
    tables.check_table(Path("b.csv"))
    Path("b.txt").write_bytes((b"y" * 900_000 + b"\n") * 5)
    tables.check_table(Path("b.txt"))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_compressed_tables_are_not_unpacked(capsys, here, bert, name):
    import bz2
    import gzip
    import lzma
    import zipfile

    content = b"text,label\n" + b"y,positive\n" * 100_000
    for packed in (gzip.compress(content), bz2.compress(content), lzma.compress(content)):
        Path(name).write_bytes(packed)
        fuse(capsys, bert, name, said="compressed")
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.csv", content)
    fuse(capsys, bert, name, said="compressed (zip)")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label" + b"".join(b",c%d" % i for i in range(20_000)) + b"\nx,positive" + b",1" * 20_000),
        ("a.tsv", b"text\tlabel" + b"".join(b"\tc%d" % i for i in range(20_000)) + b"\nx\tpositive" + b"\t1" * 20_000),
        ("a.jsonl", b'{"label":"positive","text":"a"' + b"".join(b',"k%d":1' % i for i in range(20_000)) + b"}\n"),
    ],
    ids=["csv", "tsv", "jsonl"],
)
def test_many_columns(capsys, here, bert, name, content):
    Path(name).write_bytes(content)
    fuse(capsys, bert, name, said="columns, more than 10000")


def test_brackets_and_commas_of_texts_are_no_structure(here):
    from compressor.data.files.table_checks import check_table

    rows = [{"text": "[{" * 400 + '","":' * 20_000, "label": "positive"}, {"text": "]" * 900, "label": "negative"}]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    check_table(Path("a.jsonl"))
    Path("a.csv").write_text('text,label\n"' + "," * 20_000 + '",positive\n')
    check_table(Path("a.csv"))


def test_a_preprocessor_of_enormous_images(capsys, here, vit_a):
    for change in ({"size": {"height": 60_000, "width": 60_000}}, {"size": {"shortest_edge": 10**9}}):
        shutil.copytree(vit_a, "t")
        path = Path("t/preprocessor_config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        refused(capsys, "fuse", "t", said="preprocessor_config.json, size")
        shutil.rmtree("t")


def test_a_file_of_maps_that_unpacks_to_more_than_it_holds(here):
    import numpy as np

    from compressor.errors import UserError
    from compressor.layer_maps import LAYER_MAPS_FILE, load_layer_maps

    np.savez_compressed(LAYER_MAPS_FILE, a=np.zeros(1 << 20))
    with pytest.raises(UserError, match="compressed"):
        load_layer_maps(here, ["x"])
    Path(LAYER_MAPS_FILE).write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot read"):
        load_layer_maps(here, ["x"])


@pytest.mark.parametrize("depth", [500, 100_000])
def test_nested_samples(capsys, here, bert, depth):
    row = b'{"label": "positive", "text": "a", "x": ' + b"[" * depth + b"]" * depth + b"}\n"
    Path("a.jsonl").write_bytes(row)
    fuse(capsys, bert, "a.jsonl", said="a.jsonl")
