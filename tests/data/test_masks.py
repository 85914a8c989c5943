import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as Pillow
from transformers import SegformerConfig, SegformerImageProcessorPil

from compressor.data.batches import Batches
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.models.teacher import ModelSpec
from compressor.recipe import DataOptions

SIDE = 8


def spec(classes=3):
    config = SegformerConfig(num_labels=classes)
    config.architectures = ["SegformerForSemanticSegmentation"]
    return ModelSpec.of(config)


def processor(**options):
    return SegformerImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_convert_rgb=True, **options)


def picture(seed=0):
    return Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def mask(seed=0, classes=3):
    return np.random.default_rng(seed).integers(0, classes, (SIDE, SIDE)).astype(np.uint8)


def save(folder, names, *, kinds=("images", "masks"), mask_of=mask, split=None):
    """Write pairs to a split, or the same ones to two."""
    for each in (split,) if split is not None else ("train", "test"):
        save_split(folder, names, kinds, mask_of, each)


def save_split(folder, names, kinds, mask_of, split):
    for kind in kinds:
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        picture(seed).save(folder / kinds[0] / split / f"{name}.jpg")
        Pillow.fromarray(mask_of(seed)).save(folder / kinds[1] / split / f"{name}.png")


def batch_of(source, *, role="eval", labels=True, model=None, prepared=None):
    model = model or spec()
    options = source if isinstance(source, DataOptions) else DataOptions(source=str(source))
    split = open_split(options, role, id2label=model.labels, task=model.task, reads=model.reads)
    (batch,) = Batches(split, prepared or processor(), 8, labels=labels, spec=model)
    return batch


def test_folders_of_images_and_masks_are_pairs_by_name(tmp_path):
    save(tmp_path, ["a", "b"], split="train")
    save(tmp_path, ["c"], split="test")
    train = batch_of(tmp_path, role="train")
    assert train["pixel_values"].shape == (2, 3, SIDE, SIDE) and train["labels"].dtype == torch.int64
    assert {tuple(row.flatten().tolist()) for row in train["labels"]} == {
        tuple(mask(seed).flatten().tolist()) for seed in (0, 1)
    }
    assert len(batch_of(tmp_path)["labels"]) == 1
    assert "labels" not in batch_of(tmp_path, labels=False)


def test_splits_may_be_above_the_folders_of_images_and_annotations(tmp_path):
    save(tmp_path / "train", ["a", "b"], kinds=("images", "annotations"), split="")
    save(tmp_path / "val", ["a"], kinds=("images", "annotations"), split="")
    assert len(batch_of(tmp_path)["labels"]) == 1 and len(batch_of(tmp_path, role="train")["labels"]) == 2


def test_an_image_without_a_mask_is_named(tmp_path):
    save(tmp_path, ["a", "b"])
    (tmp_path / "masks" / "test" / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.jpg has no mask of its name"):
        batch_of(tmp_path)


def test_tables_have_a_column_of_masks(tmp_path):
    columns = {
        "image": [picture(seed) for seed in range(2)],
        "annotation": [Pillow.fromarray(mask(s)) for s in range(2)],
    }
    table = Dataset.from_dict(columns, features=Features({"image": Image(), "annotation": Image()}))
    for split in ("train", "test"):
        table.to_parquet(tmp_path / f"{split}.parquet")
    assert torch.equal(batch_of(tmp_path)["labels"][1], torch.from_numpy(mask(1)).long())
    with pytest.raises(UserError, match="no mask column 'shapes'"):
        batch_of(DataOptions(source=str(tmp_path), label_column="shapes"))


def test_paths_of_masks_are_relative_to_their_table(tmp_path):
    save(tmp_path, ["a"])
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("image,mask\nimages/test/a.jpg,masks/test/a.png\n", encoding="utf-8")
    assert torch.equal(batch_of(tmp_path)["labels"][0], torch.from_numpy(mask()).long())


def test_255_is_no_class_and_reduced_labels_have_no_ground(tmp_path):
    def with_gap(seed):
        values = mask(seed)
        values[0, 0], values[0, 1] = 255, 0
        return values

    save(tmp_path, ["a"], mask_of=with_gap)
    plain, reduced = (batch_of(tmp_path, prepared=processor(do_reduce_labels=by))["labels"][0] for by in (False, True))
    assert plain[0, 0] == reduced[0, 0] == reduced[0, 1] == -100 and plain[0, 1] == 0
    assert torch.equal(plain[plain > 0], reduced[plain > 0] + 1)


def test_palettes_give_their_indices(tmp_path):
    save(tmp_path, ["a"])
    image = Pillow.fromarray(mask(), mode="P")
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    image.save(tmp_path / "masks" / "test" / "a.png")
    assert torch.equal(batch_of(tmp_path)["labels"][0], torch.from_numpy(mask()).long())


def test_unfit_masks_are_refused_by_name(tmp_path):
    save(tmp_path, ["a"])
    cases = {
        "picture in colours": picture(5),
        "has 4×4 pixels, and its image has 8×8": Pillow.fromarray(mask()[:4, :4].copy()),
        "has class 2, and the model has classes 0 to 1": None,
    }
    for message, image in cases.items():
        if image is not None:
            image.save(tmp_path / "masks" / "test" / "a.png")
        else:
            save(tmp_path, ["a"])
        with pytest.raises(UserError, match=message):
            batch_of(tmp_path, model=spec(classes=2))
