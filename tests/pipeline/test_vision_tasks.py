"""Segmentation, and images with texts, from a folder of data to a student that is measured again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tiny_detr import detr_config, detr_processor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SegformerConfig,
    SegformerImageProcessorPil,
    YolosConfig,
    YolosImageProcessorPil,
)

import compressor
from compressor.cli import run_command
from compressor.models.configs.reading import model_class
from compressor.models.folder.save import save_student

SIDE = 16
WORDS = ("<pad>", "red", "green", "blue", "up", "down", "<end>")


def picture(generator):
    """Half of a picture in a colour, its mask, and what it is."""
    colour, up = int(generator.integers(3)), bool(generator.integers(2))
    pixels, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    half = slice(0, SIDE // 2) if up else slice(SIDE // 2, SIDE)
    pixels[half, :, colour], mask[half] = 200, colour + 1
    return (
        pixels + generator.integers(0, 50, pixels.shape).astype(np.uint8),
        mask,
        f"{WORDS[1 + colour]} {'up' if up else 'down'}",
    )


def save_data(folder, samples):
    generator = np.random.default_rng(0)
    for split, count in samples.items():
        lines, boxes = [], []
        for index in range(count):
            pixels, mask, caption = picture(generator)
            for kind, values in (
                ("masks/images", pixels),
                ("masks/masks", mask),
                ("captions", pixels),
                ("boxes", pixels),
            ):
                file = folder / kind / split / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Pillow.fromarray(values).save(file)
            lines.append(json.dumps({"file_name": f"{index}.png", "caption": caption}))
            half = [0, 0 if caption.endswith("up") else SIDE // 2, SIDE, SIDE // 2]
            objects = {"bbox": [half], "category": [caption.split()[0]]}
            boxes.append(json.dumps({"file_name": f"{index}.png", "objects": objects}))
        (folder / "captions" / split / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (folder / "boxes" / split / "metadata.jsonl").write_text("\n".join(boxes), encoding="utf-8")


def segformer():
    config = SegformerConfig(
        architectures=["SegformerForSemanticSegmentation"], num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=[16, 32], patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[2, 4], mlp_ratios=[2, 2],
        decoder_hidden_size=16, num_labels=4,
    )  # fmt: skip
    return config, SegformerImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_convert_rgb=True)


def yolos():
    names = WORDS[1:4]
    config = YolosConfig(
        architectures=["YolosForObjectDetection"], hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, image_size=[SIDE, SIDE], patch_size=8, num_detection_tokens=4,
        id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    return config, YolosImageProcessorPil(size={"height": SIDE, "width": SIDE})


def detr():
    return detr_config(WORDS[1:4]), detr_processor()


def clip():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 16, "eos_token_id": len(WORDS) - 1, "pad_token_id": 0}
    config = CLIPConfig(
        architectures=["CLIPModel"], projection_dim=8, text_config=text | sizes,
        vision_config={"image_size": SIDE, "patch_size": 4} | sizes,
    )  # fmt: skip
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")
    images = CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    return config, CLIPProcessor(images, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "data", "metric", "size"),
    [
        (segformer, "masks", "miou", {"width": 0.5}),
        (yolos, "boxes", "map", {"width": 0.5}),
        # Its places keep the width.
        (detr, "boxes", "map", {"width": 1, "ffn": 0.5}),
        (clip, "captions", "recall5", {"width": 0.5}),
    ],
    ids=["segmentation", "yolos", "detr", "image-text"],
)
def test_a_folder_of_data_is_all_it_takes(make, data, metric, size, tmp_path, capsys):
    save_data(tmp_path, {"train": 48, "test": 12})
    names = []
    for seed in range(2):
        torch.manual_seed(seed)
        config, processor = make()
        (tmp_path / f"teacher-{seed}").mkdir()
        save_student(tmp_path / f"teacher-{seed}", model_class(config)(config).eval(), processor)
        names.append(str(tmp_path / f"teacher-{seed}"))
    source, student = str(tmp_path / data), tmp_path / "student"
    options = ["--data", source, "--steps", "2", "--effort", "fast", "--no-latency"]
    options += [text for name, value in size.items() for text in (f"--{name}", str(value))]
    assert run_command(["fuse", *names, *options, "--label-weight", "0.5", "-o", str(student)]) == 0
    report = json.loads((student / "report.json").read_text(encoding="utf-8"))
    assert all(row[metric] is not None for row in report["table"])
    assert report["onnx"]["largest_relative_difference"] < 1e-4
    card = (student / "README.md").read_text(encoding="utf-8")
    program = (
        card.partition("## Use\n\n```python\n")[2].partition("```")[0].replace("path/to/this/folder", str(student))
    )
    loaded: dict = {}
    exec(program, loaded)  # the card's lines
    assert loaded["model"].num_parameters() < model_class(make()[0])(make()[0]).num_parameters()
    assert run_command(["evaluate", str(student), names[0], "--data", source]) == 0
    fused = compressor.fuse(names, data=source, effort="fast", samples=16, **size)
    assert type(fused.model) is type(loaded["model"])
    capsys.readouterr()
