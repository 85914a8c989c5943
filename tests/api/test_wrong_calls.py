"""Wrong calls are answered with the fix, in one line and before any network access.

`python tests/api/test_wrong_calls.py` prints the table of all, `… guide` that of the guide.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

#: A teacher of the Hub, which nothing may look for.
REMOTE = "someone/some-model"


def batch():
    import torch

    return {"pixel_values": torch.zeros(4, 3, 16, 16)}


def used_up():
    batches = (batch() for _ in range(2))
    list(batches)
    return batches


def loader_of_tuples():
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(torch.zeros(8, 3, 16, 16), torch.zeros(8, dtype=torch.int64)), batch_size=4)


def array():
    import numpy as np

    return np.zeros((4, 16, 16, 3), dtype=np.uint8)


def picture():
    from PIL import Image

    return Image.new("RGB", (16, 16))


def linear():
    import torch

    return torch.nn.Linear(2, 2)


def frame():
    import pandas as pd

    return pd.DataFrame({"text": ["a film"], "label": [0]})


def dataset():
    from datasets import Dataset

    return Dataset.from_dict({"text": ["a film"]})


def config():
    from transformers import ViTConfig

    return ViTConfig()


def model_class():
    from transformers import ViTForImageClassification

    return ViTForImageClassification


#: {call as it is typed: what the answer says}; `c` is the package, `m` a model in memory, the others are above.
CALLS = {
    "c.fuse(R, 0.5, batch())": "calibration: this is a single batch: put it into a list, [batch]",
    "c.fuse(R, 0.5, batch()['pixel_values'])": "a list of batches, [{'pixel_values': x} for x in tensor.split(128)]",
    "c.fuse(R, 0.5, loader_of_tuples())": "its batches are tuples, whose parts have no name: give dicts, "
    "[{'pixel_values': x, 'labels': y} for x, y in data]",
    "c.fuse(R, 0.5, [('a film', 1), ('a plot', 0)])": "give datasets.Dataset.from_dict({'text': […], 'label': […]})",
    "c.fuse(R, 0.5, [(picture(), 1)])": "give datasets.Dataset.from_dict({'image': […], 'label': […]})",
    "c.evaluate(R, (batch()['pixel_values'], None))": "[{'pixel_values': data[0], 'labels': data[1]}]",
    "c.evaluate(R, (['a film', 'a plot'], [1, 0]))": "Dataset.from_dict({'text': data[0], 'label': data[1]})",
    "c.fuse(R, narrowing=m)": "narrowing: input should be 'auto'",
    "c.fuse(R, 0.5, used_up())": "calibration: the generator is used up or empty: make it anew, or give a list",
    "c.fuse(R, 0.5, used_up)": "the function used_up is not called",
    "c.fuse(R, 0.5, array())": "give PIL images, [Image.fromarray(a) for a in array]",
    "c.fuse(R, 0.5, [array()])": "give PIL images, [Image.fromarray(array) for array in data]",
    "c.fuse(R, 0.5, picture())": "this is a single image: put it into a list, [image]",
    "c.fuse(R, 0.5, {'text': ['a film']})": "a dict is no list of samples: give datasets.Dataset.from_dict(…)",
    "c.fuse(R, 0.5, frame())": "give datasets.Dataset.from_pandas(frame)",
    "c.fuse(R, 0.5, 128)": "int 128 is no data",
    "c.fuse(R, 0.5, [])": "the list is empty",
    "c.fuse(R, 0.5, [1, 2])": "its entries are int",
    "c.fuse(R, 0.5, ['a film', None])": "entry 1 is None, and those before it are texts",
    "c.fuse(R, 0.5, [{'pixel_values': 3, 'labels': batch()['pixel_values']}])": "'pixel_values' is int 3",
    "c.fuse(R, 0.5, [{'pixel_values': array()}])": "'pixel_values' is a ndarray: give tensors (torch.as_tensor)",
    "c.fuse(R, 0.5, {'input_ids': [[1, 2], [3]]})": "make it with return_tensors='pt' and put it into a list, [batch]",
    "c.fuse(m, 0.5, [{**batch(), 'label': batch()['pixel_values']}])": "calls it 'labels': name it so",
    "c.fuse(R, 0.5, './no/such/folder')": "no data at ./no/such/folder: there is no such file or folder",
    "c.fuse(R, 0.5, 'digits.csv')": "no data at digits.csv",
    "c.fuse(R, 0.5, m)": "a ViTForImageClassification is no data (several models go into one list)",
    "c.fuse(R, 0.5, [batch()], data=[batch()])": "calibration and data are two names of the same",
    "c.fuse(R, m)": "width is a ViTForImageClassification and no number: several teachers go into a list",
    "c.fuse('vit-a', 'vit-b')": "width is 'vit-b' and no number: several teachers go into a list, fuse([a, b]",
    "c.fuse(R, 2.0)": "width: a width must be above 0 and at most 1, not 2.0",
    "c.fuse(R, '0.5x')": "width is '0.5x' and no number",
    "c.fuse(R, wdth=0.5)": "unknown keyword 'wdth': did you mean width?",
    "c.fuse(R, 0.5, None, 6)": "4 values without a name",
    "c.fuse()": "teachers is missing",
    "c.fuse([])": "the list is empty: give a list of at least one model",
    "c.fuse(None)": "None is no model",
    "c.fuse([R, None])": "teachers[1]: None is no model",
    "c.fuse(7)": "int 7 is no model",
    "c.fuse([[R, R]])": "put all models into one list",
    "c.fuse({'a': m})": "give a list of its models",
    "c.fuse(model_class())": "make one with ViTForImageClassification.from_pretrained(…)",
    "c.fuse(config())": "a ViTConfig has no weights",
    "c.fuse(linear())": "a Linear is no PreTrainedModel of transformers",
    "c.fuse([R, './no/such/model'])": "no model './no/such/model'",
    "c.fuse(R, narrowing='fewest')": "narrowing: input should be 'auto', 'fewer-heads'",
    "c.fuse([R, R], weights=[1])": "one non-negative weight per teacher",
    "c.fuse(R, alignment={'kost': 1})": "unknown key 'fusion.alignment.kost'",
    "c.fuse(R, preset='magic')": "unknown preset 'magic'",
    "c.evaluate(R)": "evaluate: data is missing: give a name or path",
    "c.evaluate(m, batch())": "this is a single batch",
    "c.evaluate(m, [batch()])": "has no labels: name their column with label_column, or add 'labels' to every batch",
    "c.evaluate(R, 'digits', ensemble=True)": "an ensemble is of two models or more",
    "c.evaluate(m, [{'image': batch()['pixel_values']}])": "which ViTForImageClassification does not read: its input "
    "is 'pixel_values'",
    "c.evaluate(m, [{'pixel_values': batch()['pixel_values'][:, :, :8]}])": "reads [batch, 3, 16, 16]",
    "c.evaluate(m, [picture()])": "has no image processor to turn images into its inputs: give processor=",
    "c.evaluate(m, ['a film'], processor=print)": "the teacher reads images",
    "c.finetune(m, data=[batch()])": "teachers is missing: name them",
    "c.finetune(m, R)": "finetune: data is missing: give a name or path",
    "c.finetune([m, m], R, [batch()])": "student: one model is wanted, and there are 2",
    "c.finetune(m, R, [batch()], steps=0)": "steps: input should be greater than or equal to 1, not 0",
    "c.finetune(m, R, [batch()], resume=True)": "resume needs work_dir",
    "c.bench([])": "the list is empty",
    "c.bench(R, batch_size=0)": "batch_size: a whole number above 0 is wanted",
    "c.bench(R, seconds='long')": "seconds: a number above 0 is wanted",
    "c.export(m)": "folder is missing: say where the files of this model go",
    "c.export(R, 'x', formats='onix')": "unknown export format 'onix'",
    "c.export(m, 'x', data=[batch()])": "are no samples to calibrate with",
    "c.plan(R, [0.5])": "plan: width: input should be a valid number, not [0.5]",
    "c.evaluate(m, [batch()], processor='tok')": "processor: 'tok' is no tokenizer or image processor",
    "c.fuse(R, 0.5, __import__('numpy').array(['a film']))": "give a list, array.tolist()",
    "c.fuse(R, 0.5, {'train': dataset()})": "give datasets.DatasetDict(data)",
    "c.plan(R, params='many')": "params: this should be a number such as 6M",
    "c.plan(R, params=1e6, flops=1e6)": "exclude each other",
    "c.inspect(linear())": "a Linear is no PreTrainedModel of transformers",
}  # fmt: skip


#: Calls of the guide (docs/python.md); `a` is a teacher, and the other names are what they say.
GUIDE = (
    'fuse("vit-a", "vit-b")',
    "fuse(a, wdth=0.5)",
    "fuse(a, 0.5, batch)",
    "fuse(a, 0.5, loader)",
    "fuse(a, 0.5, array)",
    "fuse(a, 0.5, image)",
    "fuse(a, 0.5, frame)",
    'fuse(a, 0.5, {"text": ["a film"]})',
    'fuse(a, 0.5, "./no/such/folder")',
    "fuse(a, 2.0)",
    "fuse(a, trust_code=True)",
    'fuse(a, narrowing="fewest")',
    'evaluate(model, [{"image": pixels}])',
    "evaluate(model, [image])",
    "finetune(model, data=[batch])",
    "export(model)",
    "inspect(layer)",
)


def guide_answer(call):
    """The answer to a call of the guide."""
    import compressor

    things = {"array": array(), "image": picture(), "frame": frame(), "layer": linear(), "loader": loader_of_tuples()}
    things |= {"a": REMOTE, "model": model(), "batch": batch(), "pixels": batch()["pixel_values"]}
    try:
        eval(call, {**vars(compressor), **{name: getattr(compressor, name) for name in compressor.__all__}, **things})
    except compressor.UserError as error:
        return str(error)
    return "no answer"


def guide_table():
    """The table of the guide."""
    rows = [f"| `{call}` | `{guide_answer(call).replace('|', '/')}` |" for call in GUIDE]
    return "\n".join(["| call | answer |", "| :-- | :-- |", *rows])


def model():
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8)).eval()


def answer(call):
    """The answer to a wrong call, or the type of what came instead."""
    import compressor

    names = {**globals(), "c": compressor, "m": model(), "R": REMOTE}
    try:
        eval(call, names)
    except compressor.UserError as error:
        return str(error)
    return "no answer"


@pytest.fixture
def cut_off(monkeypatch, tmp_path):
    """No network, and a working folder of its own."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_hf_hub_args

    def refuse(*args, **kwargs):
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # Ids that are none are refused before a request, as in the library.
    request = validate_hf_hub_args(lambda self, repo_id, **kwargs: refuse())
    for name in ("model_info", "dataset_info"):
        monkeypatch.setattr(HfApi, name, request)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_is_answered_with_the_fix(cut_off, call):
    text = answer(call)
    assert CALLS[call] in text and "\n" not in text
    assert list(cut_off.iterdir()) == []


def test_the_table_of_the_guide_is_what_is_answered(cut_off):
    assert len(GUIDE) >= 15
    assert guide_table() in (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


def test_wrappers_of_a_model_say_how_to_get_at_it():
    import torch

    import compressor

    with pytest.raises(compressor.UserError, match=r"give its \.module"):
        compressor.fuse(torch.nn.DataParallel(model()))
    adapter = SimpleNamespace(merge_and_unload=None, state_dict=None)
    with pytest.raises(compressor.UserError, match="merge the adapter first"):
        compressor.fuse(adapter)


def main():
    """Print the calls and their answers as a table."""
    if sys.argv[1:] == ["guide"]:
        print(guide_table())
        return
    print("| call | answer |\n| :-- | :-- |")
    for call in CALLS:
        print(f"| `{call}` | {answer(call).replace('|', '/')} |")


if __name__ == "__main__":
    import os

    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main())
