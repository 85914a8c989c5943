"""Images with boxes as model inputs."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from transformers import DetrImageProcessorPil, YolosConfig, YolosImageProcessorPil

from compressor.data.batches import Batches
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.models.teacher import ModelSpec
from compressor.recipe import DataOptions

NAMES = ("cat", "dog")
#: A box of 4 × 6 pixels at (2, 3) of an image of 20 × 10, as centre and size in shares.
PIXELS, SHARES = [2.0, 3.0, 4.0, 6.0], [0.2, 0.6, 0.2, 0.6]


def spec(**options):
    config = YolosConfig(
        architectures=["YolosForObjectDetection"], image_size=[16, 16], id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)}, **options,
    )  # fmt: skip
    return ModelSpec.of(config)


def detr_spec():
    from transformers import DetrConfig

    config = DetrConfig(architectures=["DetrForObjectDetection"], id2label=dict(enumerate(NAMES)))
    return ModelSpec.of(config)


def picture(width=20, height=10):
    return Pillow.fromarray(np.zeros((height, width, 3), np.uint8))


def save(folder, objects, *, sizes=None):
    """Write images and metadata.jsonl with `objects` each; None: no such column."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        lines = []
        for index, each in enumerate(objects):
            picture(*(sizes[index] if sizes else ())).save(folder / split / f"{index}.png")
            lines.append(json.dumps({"file_name": f"{index}.png"} | ({} if each is None else {"objects": each})))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def batch_of(source, *, labels=True, model=None, processor=None, **options):
    model = model or spec()
    request = DataOptions(source=str(source), **options)
    split = open_split(request, "eval", id2label=model.labels, task=model.task, reads=model.reads)
    processor = processor or YolosImageProcessorPil(size={"height": 16, "width": 16})
    (batch,) = Batches(split, processor, 8, labels=labels, spec=model)
    return batch


def test_a_folder_with_metadata_has_boxes_in_shares_of_the_image(tmp_path):
    save(tmp_path, [{"bbox": [PIXELS], "category": ["dog"]}, {"bbox": [PIXELS, PIXELS], "category": ["cat", "dog"]},
                    {"bbox": [], "category": []}])  # fmt: skip
    batch = batch_of(tmp_path)
    assert set(batch) == {"pixel_values", "labels"} and batch["pixel_values"].shape == (3, 3, 16, 16)
    assert batch["labels"].shape == (3, 2, 5)
    torch.testing.assert_close(batch["labels"][0, 0], torch.tensor([1.0, *SHARES]))
    # Known to show nothing, and padding.
    assert batch["labels"][2, :, 0].tolist() == [-1, -100] and batch["labels"][0, 1, 0] == -100


@pytest.mark.parametrize("classes", ["names", "numbers", "ClassLabel", "structures"])
def test_columns_of_datasets(classes, tmp_path):
    feature = ClassLabel(names=["dog", "cat"]) if classes == "ClassLabel" else Value("string")
    if classes == "numbers":
        feature = Value("int64")
    stored = {"names": "dog", "numbers": 1, "ClassLabel": 0, "structures": "dog"}[classes]
    if classes == "structures":
        objects, kind = (
            [{"bbox": PIXELS, "category": stored}],
            List({"bbox": List(Value("float32")), "category": feature}),
        )
    else:
        objects = {"bbox": [PIXELS], "category": [stored]}
        kind = {"bbox": List(List(Value("float32"))), "category": List(feature)}
    dataset = Dataset.from_dict(
        {"image": [picture()], "objects": [objects]}, features=Features(image=Image(), objects=kind)
    )
    for split in ("train", "test"):
        dataset.save_to_disk(tmp_path / split)
    torch.testing.assert_close(batch_of(tmp_path)["labels"][0, 0], torch.tensor([1.0, *SHARES]))


@pytest.mark.parametrize("layout", ["coco", "roboflow"])
def test_annotations_as_coco_has_them(layout, tmp_path):
    for split in ("train", "valid"):
        images = tmp_path / ("images" if layout == "coco" else "") / split
        images.mkdir(parents=True)
        for index in range(2):
            picture().save(images / f"{index}.png")
        common = {"iscrowd": 0, "category_id": 7}
        content = {
            "images": [{"id": 5 + index, "file_name": f"{index}.png"} for index in range(2)],
            "annotations": [{"id": 1, "image_id": 5, "bbox": PIXELS, **common},
                            {"id": 2, "image_id": 5, "bbox": [0, 0, 20, 10], **common, "iscrowd": 1}],
            "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        }  # fmt: skip
        file = tmp_path / "annotations" / f"instances_{split}.json"
        file = file if layout == "coco" else images / "_annotations.coco.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    labels = batch_of(tmp_path)["labels"]
    torch.testing.assert_close(labels[:, 0], torch.tensor([[1.0, *SHARES], [-1.0, 0, 0, 0, 0]]))
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="is not annotations as COCO has them"):
        batch_of(tmp_path)


def test_images_alone_calibrate(tmp_path):
    save(tmp_path, [None, None])
    (tmp_path / "test" / "metadata.jsonl").unlink()
    (tmp_path / "train" / "metadata.jsonl").unlink()
    assert set(batch_of(tmp_path, labels=False)) == {"pixel_values"}
    with pytest.raises(UserError, match="has no labels"):
        batch_of(tmp_path)


def test_images_of_several_sizes_need_a_mask(tmp_path):
    save(tmp_path, [{"bbox": [PIXELS], "category": ["dog"]}] * 2, sizes=[(20, 10), (20, 20)])
    options = {"size": {"shortest_edge": 16, "longest_edge": 64}}
    with pytest.raises(UserError, match=r"several sizes \(16×32, 16×16\), and this model has no mask"):
        batch_of(tmp_path, processor=YolosImageProcessorPil(**options))
    batch = batch_of(tmp_path, model=detr_spec(), processor=DetrImageProcessorPil(**options))
    assert batch["pixel_mask"].shape == (2, 16, 32) and batch["pixel_mask"].sum((1, 2)).tolist() == [512, 256]
    torch.testing.assert_close(batch["labels"][0, 0], torch.tensor([1.0, *SHARES]))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"bbox": [[2, 3, 40, 6]], "category": ["dog"]}, "leaves its image of 20×10 pixels"),
        ({"bbox": [[2, 3, 4]], "category": ["dog"]}, "a box that is not left, top, width and height"),
        ({"bbox": [PIXELS], "category": ["horse"]}, r"label 'horse' is not one of the model's labels \(cat, dog\)"),
        ({"bbox": [PIXELS], "category": []}, "1 boxes and 0 classes"),
        ({"bbox": [PIXELS], "area": [24]}, r"does not hold objects with a box .* and a class"),
    ],
)
def test_wrong_boxes_are_named(objects, message, tmp_path):
    save(tmp_path, [objects])
    with pytest.raises(UserError, match=message):
        batch_of(tmp_path)
