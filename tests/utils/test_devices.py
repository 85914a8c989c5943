"""Models on a device for the length of a block."""

import pytest
import torch
from torch import nn

from compressor.utils.devices import on_device


class Recorder(nn.Linear):
    """A module that records its moves instead of moving."""

    def __init__(self):
        super().__init__(1, 1)
        self.moves, self.places = [], []

    def to(self, device):
        self.places.append(torch.device(device))
        self.moves.append(self.places[-1].type)
        return self


def test_models_are_on_the_device_inside_the_block_alone():
    models = [Recorder(), Recorder()]
    with on_device(models, "cuda"):
        assert [model.moves for model in models] == [["cuda"], ["cuda"]]
    assert [model.moves for model in models] == [["cuda", "cpu"], ["cuda", "cpu"]]


def test_models_return_after_an_error():
    model = Recorder()
    with pytest.raises(KeyboardInterrupt), on_device([model], torch.device("cuda")):
        raise KeyboardInterrupt
    assert model.moves == ["cuda", "cpu"]


def test_launched_processes_take_a_gpu_each(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    model = Recorder()
    with on_device([model], "cuda"):
        assert str(model.places[0]) == "cuda:1"
    assert str(model.places[1]) == "cpu"
