import json

import numpy as np
import pytest
from PIL import Image as Pillow
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPProcessor, PreTrainedTokenizerFast

from compressor.data.batches import Batches
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.models.teacher import ModelSpec
from compressor.recipe import DataOptions

WORDS = ("<pad>", "a", "photo", "of", "cat", "dog", "sleeping", "big", ".")


def spec():
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 8, "hidden_size": 8, "num_attention_heads": 2}
    return ModelSpec.of(CLIPConfig(architectures=["CLIPModel"], text_config=text, vision_config={"image_size": 8}))


def processor():
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    return CLIPProcessor(CLIPImageProcessorPil(size={"height": 8, "width": 8}, do_center_crop=False), tokenizer)


def picture(file, seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)


def batch_of(folder, labels=True, prepared=None, **options):
    model = spec()
    data = DataOptions(source=str(folder), **options)
    split = open_split(data, "eval", id2label=model.labels, task=model.task, reads=model.reads)
    (batch,) = Batches(split, prepared or processor(), 8, labels=labels, spec=model)
    return batch


def words_of(row):
    return " ".join(WORDS[index] for index in row if index)


def test_captions_are_read_and_equal_ones_share_a_number(tmp_path):
    captions = ["big cat", "sleeping dog", "big cat"]
    for split in ("train", "test"):
        for index in range(3):
            picture(tmp_path / split / f"{index}.png", index)
        lines = [json.dumps({"file_name": f"{i}.png", "caption": text}) for i, text in enumerate(captions)]
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    batch = batch_of(tmp_path)
    assert batch["pixel_values"].shape == (3, 3, 8, 8) and batch["input_ids"].shape == (3, 8)
    assert [words_of(row) for row in batch["input_ids"]] == captions
    assert batch["attention_mask"].sum(1).tolist() == [2, 2, 2]
    assert batch["labels"][0] == batch["labels"][2] != batch["labels"][1]
    assert "labels" not in batch_of(tmp_path, labels=False)


def test_classes_of_folders_become_prompts(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "sleeping_dog"):
            picture(tmp_path / split / name / "0.png")
    batch = batch_of(tmp_path)
    assert {words_of(row) for row in batch["input_ids"]} == {"a photo of a cat .", "a photo of a sleeping dog ."}
    assert sorted(batch["labels"].tolist()) == [0, 1]
    assert {words_of(row) for row in batch_of(tmp_path, prompt="big {}")["input_ids"]} == {
        "big cat",
        "big sleeping dog",
    }
    with pytest.raises(ValueError, match="the place of the class's name"):
        DataOptions(source=str(tmp_path), prompt="a cat")


def test_missing_texts_and_tokenizers_are_named(tmp_path):
    for split in ("train", "test"):
        picture(tmp_path / split / "0.png")
    with pytest.raises(UserError, match="neither captions nor names of classes"):
        batch_of(tmp_path)
    for split in ("train", "test"):
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": " "}))
    with pytest.raises(UserError, match=r"sample 0 of .* has no text in column 'text'"):
        batch_of(tmp_path)
    with pytest.raises(UserError, match="the teacher's preprocessor reads no text"):
        batch_of(tmp_path, prepared=processor().image_processor)
