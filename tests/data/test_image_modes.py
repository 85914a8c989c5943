"""Images of every mode become the same 8-bit pixels, wherever they are stored."""

from __future__ import annotations

import io
import sys
import warnings
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features
from pictures import COLOUR, GREY, encoded, modes, tiff
from PIL import Image
from tiny import CLASSES

from compressor.data.batches import Batches
from compressor.data.images.decode import decode
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.recipe import DataOptions

MODES = modes()
#: Distance of a mode's colours from those of RGB: 8 bits of a hue are few, and LAB has fewer colours.
ROUNDING = {"YCbCr": 3, "HSV": 6, "LAB": 40}


@pytest.fixture(autouse=True)
def _no_bars():
    datasets.disable_progress_bars()


class Plain:
    """A processor that changes nothing."""

    image_mean = (0, 0, 0)

    def __call__(self, images, return_tensors):
        pixels = [torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1) for image in images]
        return {"pixel_values": torch.stack(pixels).permute(0, 3, 1, 2)}


class Grey(Plain):
    image_mean = (0,)


def read(source, processor=None, **options):
    """All pixels of a source [N, H, W, C], and the notes on them."""
    splits = [open_split(DataOptions(source=str(source), **options), role) for role in ("train", "eval")]
    pixels = [
        batch["pixel_values"] for split in splits for batch in Batches(split, processor or Plain(), 2, labels=False)
    ]
    return torch.cat(pixels).permute(0, 2, 3, 1).numpy(), {note for split in splits for note in split.notes}


def expected(pixels, channels=3):
    if channels == 1:
        return pixels[..., None] if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels


@pytest.mark.parametrize("name", MODES)
def test_images_of_any_mode_keep_their_brightness(tmp_path, name):
    mode, content, pixels = MODES[name]
    assert Image.open(io.BytesIO(content)).mode in (mode, "I;16"), "the test writes another mode than it says"
    suffix = {b"\x89PN": "png", b"GIF": "gif", b"P5\n": "pgm"}.get(content[:3], "tif")
    folder = tmp_path / "files"
    folder.mkdir()
    for index in range(2):
        (folder / f"{index}.{suffix}").write_bytes(content)
    pq.write_table(pa.table({"image": [{"bytes": content, "path": None}] * 2}), tmp_path / "bytes.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for source, processor in ((folder, Plain()), (folder, Grey()), (tmp_path / "bytes.parquet", Plain())):
            found, notes = read(source, processor)
            difference = np.abs(found.astype(int) - expected(pixels, found.shape[-1])).max()
            assert difference <= ROUNDING.get(name, 0), f"{source.name} is off by {difference}"
            assert len(notes) == (mode == "F" or (mode == "I" and name != "I, 16 bits")), notes


@pytest.mark.parametrize("mode", ["HSV", "La", "RGBa", "RGBX"])
def test_modes_of_no_file_are_converted(mode):
    """Pillow makes them, and writes none of them."""
    from compressor.data.images.decode import _convert

    pixels, between = {"La": (GREY, "LA"), "HSV": (COLOUR, "RGB")}.get(mode, (COLOUR, "RGBA"))
    image = Image.fromarray(pixels).convert(between).convert(mode)
    for target, channels in (("RGB", 3), ("L", 1)):
        found = np.asarray(_convert(image, target)).reshape(*GREY.shape, channels)
        assert np.abs(found.astype(int) - expected(pixels, channels)).max() <= ROUNDING.get(mode, 0)


def test_black_and_white_are_those_of_the_whole_data_set(tmp_path):
    """Not of one image, nor of one split: a dark image stays dark, in training as in evaluation."""
    for split, level in (("train", 0.25), ("train", 1.0), ("test", 0.5)):
        (tmp_path / split).mkdir(exist_ok=True)
        content = tiff(np.full((8, 8), 2000 * level, np.float32), sign=3)
        (tmp_path / split / f"{level}.tif").write_bytes(content)
    found, notes = read(tmp_path)
    assert sorted(set(found.ravel().tolist())) == [round(2000 * level / 2047 * 255) for level in (0.25, 0.5, 1)]
    (note,) = notes
    assert "3 images" in note and "0 was read as black and 2047 as white" in note


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ((0, 1), (0, 1)),
        ((0.1, 0.9), (0, 1)),
        ((0, 255), (0, 255)),
        ((3, 100), (0, 255)),
        ((0, 256), (0, 511)),
        ((0, 4095), (0, 4095)),
        ((12, 65535), (0, 65535)),
        ((0, 2**31 - 1), (0, 2**31 - 1)),
        ((0, 2**32 - 1), (0, 2**32 - 1)),
        ((-1, 1), (-1, 1)),
        ((-0.98, 0.97), (-1, 1)),
        ((-1024, 3071), (-1024, 3071)),
        # Interpolated: a bit beyond the usual range must not make all images dark.
        ((0, 1.0000001), (0, 1.0000001)),
        ((-0.04, 1.06), (-0.04, 1.06)),
        ((-0.5, 255.4), (-0.5, 255.4)),
        # Little of a usual range.
        ((0, 20), (0, 20)),
        ((1000, 1200), (1000, 1200)),
        ((0, 0), (0, 1)),
        ((7, 7), (0, 255)),
        ((-7, -7), (-7, -6)),
    ],
)
def test_bounds_of_values_that_have_none(values, bounds):
    from compressor.data.images.deep_pixels import usual_bounds

    assert usual_bounds(*values) == bounds


def test_a_note_says_how_values_were_read(tmp_path, vit_a, capsys):
    from command import compress

    from compressor.models.load import load_teacher
    from compressor.pipeline.data_splits import open_data
    from compressor.recipe import build_recipe

    for name in CLASSES:
        (tmp_path / name).mkdir()
        for index in range(3):
            (tmp_path / name / f"{index}.tif").write_bytes(MODES["F, 0 to 1"][1])
    code, _, err = compress(capsys, "evaluate", vit_a, "--data", tmp_path)
    said = "12 images of 32-bit or floating-point values, which name no black and white: 0 was read as black and 1 as"
    assert code == 0 and err.startswith("note: ") and said in err and err.count("\n") == 1
    teacher = load_teacher(str(vit_a))
    recipe = build_recipe({"teachers": [str(vit_a)], "data": {"source": str(tmp_path)}, "output": str(tmp_path / "s")})
    (note,) = open_data(recipe, teacher.processor, teacher.spec).notes
    assert said in note


def test_usual_images_are_not_looked_through(tmp_path, monkeypatch):
    from compressor.data.images import bounds as image_bounds

    for index in range(4):
        Image.fromarray(COLOUR).save(tmp_path / f"{index}.png")
    monkeypatch.setattr(image_bounds, "free_range", lambda stored: 1 / 0)
    assert read(tmp_path)[1] == set()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused_by_name(tmp_path, value):
    pixels = np.zeros((8, 8), np.float32)
    for index in range(3):
        pixels[0, 0] = value if index == 2 else 1
        (tmp_path / f"{index}.tif").write_bytes(tiff(pixels, sign=3))
    with pytest.raises(UserError, match=r"2\.tif.*not all finite"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["L", "RGB", "P", "I;16", "I;16 TIFF", "F, 0 to 1"])
def test_truncated_images_are_refused_by_name(tmp_path, name):
    content = MODES[name][1]
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(content if index < 3 else content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match=r"cannot read the image of sample \d+ \(.*3\.png\)"):
        read(tmp_path)


def test_large_deep_images_are_made_smaller_in_strips(monkeypatch):
    from compressor.data.images import decode as module
    from compressor.data.images import deep_pixels

    content = {"bytes": encoded(Image.fromarray(np.full((80, 40), 7 * 257, np.uint16)), "PNG")}
    monkeypatch.setattr(deep_pixels, "_STRIP_PIXELS", 150)
    assert np.unique(np.asarray(module.decode(content, "L"))).tolist() == [7]
    assert module.decode(content, "L").size == (40, 80)
    monkeypatch.setattr(module, "LARGE_PIXELS", 900)
    assert np.unique(np.asarray(module.decode(content, "RGB"))).tolist() == [7]
    assert module.decode(content, "L").height == 40


# Columns of numbers


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int64", "float32", "bool"])
@pytest.mark.parametrize("shape", ["grey", "colour", "channels first"])
def test_lists_of_numbers_are_images_of_their_own_range(tmp_path, kind, shape):
    pixels = GREY if shape == "grey" else COLOUR
    pixels = np.where(pixels > 100, 255, 0).astype(np.uint8) if kind == "bool" else pixels
    scale = {"uint8": 1, "uint16": 257, "int64": 16, "float32": 1 / 255, "bool": 1 / 255}[kind]
    values = (pixels.astype(np.float64) * scale).round(6).astype(kind)
    values = np.moveaxis(values, -1, 0) if shape == "channels first" else values
    inner = pa.from_numpy_dtype(np.dtype(kind))
    for _ in range(values.ndim):
        inner = pa.list_(inner)
    pq.write_table(pa.table({"image": pa.array([values.tolist()] * 2, inner)}), tmp_path / "a.parquet")
    found, notes = read(tmp_path / "a.parquet")
    assert np.abs(found.astype(int) - expected(pixels)).max() <= (1 if kind == "int64" else 0)
    assert len(notes) == (kind in ("int64", "float32"))


def test_arrays_of_features_are_images(tmp_path):
    features = Features({"image": datasets.Array3D((*GREY.shape, 3), "uint16"), "n": datasets.Value("int64")})
    wide = (COLOUR.astype(np.uint16) * 257).tolist()
    Dataset.from_dict({"image": [wide] * 2, "n": [0, 1]}, features=features).to_parquet(tmp_path / "a.parquet")
    assert np.array_equal(read(tmp_path / "a.parquet")[0][0], COLOUR)


def test_lists_that_are_no_images_are_refused(tmp_path):
    for values in ([[1.0, 2.0], [3.0]], [[[1.0] * 7] * 2] * 2):
        pq.write_table(pa.table({"image": [values] * 2}), tmp_path / "a.parquet")
        with pytest.raises(UserError, match=r"column 'image' of .* holds no images"):
            read(tmp_path / "a.parquet")


@pytest.mark.parametrize("damage", ["cut", "objects", "channels", "axes"])
def test_damaged_arrays_are_refused_by_name(tmp_path, damage):
    """Bytes in numpy's format come from files of others too."""
    array = {"objects": np.array([{}], object), "channels": np.zeros((4, 4, 9)), "axes": np.zeros((2, 2))}
    file = io.BytesIO()
    np.save(file, array.get(damage, np.zeros((4, 4, 3))), allow_pickle=True)
    content = file.getvalue()[:150] if damage == "cut" else file.getvalue()
    pq.write_table(pa.table({"image": [content] * 2}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"cannot read the image of sample 0 of .*a\.parquet"):
        read(tmp_path / "a.parquet")


def test_python_images_are_read_as_files_are(tmp_path):
    images = [Image.fromarray(GREY.astype(np.uint16) * 257), Image.fromarray(GREY.astype(np.float32) / 255)]
    features = Features({"image": datasets.Image()})
    Dataset.from_dict({"image": images}, features=features).to_parquet(tmp_path / "a.parquet")
    found, _ = read(tmp_path / "a.parquet")
    assert all(np.array_equal(image, expected(GREY)) for image in found)


def test_astronomers_files_are_refused_by_name():
    header = b"".join(
        line.ljust(80)
        for line in (b"SIMPLE  =   T", b"BITPIX  =   16", b"NAXIS   =   2", b"NAXIS1  =   2", b"NAXIS2  =   2", b"END")
    ).ljust(2880)
    with pytest.raises(ValueError, match="FITS has scales of its own"):
        decode({"bytes": header + b"\0" * 2880}, "L")


# The program on a card


@pytest.mark.parametrize("name", MODES)
def test_the_example_program_reads_images_as_a_run_does_or_refuses_them(tmp_path, monkeypatch, name):
    from compressor.report.onnx_example import onnx_example

    mode, content, pixels = MODES[name]
    fed = []

    class Session:
        def __init__(self, path):
            self.path = path

        def run(self, outputs, inputs):
            fed.append(inputs["pixel_values"])
            return [np.eye(1, 4)]

    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    (tmp_path / "onnx" / "preprocessor_config.json").write_text('{"do_rescale": true, "rescale_factor": 1}')
    (tmp_path / "onnx" / "config.json").write_text('{"id2label": {"0": "cat"}}')
    (tmp_path / "picture").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example.py", "picture"])
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    program = onnx_example(tmp_path, "image-classification")
    if mode[0] in "IF":
        with pytest.raises(AssertionError, match="more than 8 bits"):
            exec(program, {})
    else:
        exec(program, {})
        (found,) = fed
        assert np.abs(found[0].transpose(1, 2, 0) - expected(pixels)).max() <= ROUNDING.get(name, 0)
