"""Processes that share the calibration samples of a fusion get the student of one process."""

import itertools
import os
import signal

import pytest
import torch
from launched import together
from test_streaming import fused, saved
from three_layers import OPTIONS, bert, inputs, llama, vit

from compressor.errors import UserError
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.calibration.processes import Processes, launched
from compressor.fusion.streaming import Streaming
from compressor.models.folder.streamed_load import open_model
from compressor.models.folder.weights import load_model
from compressor.utils import distributed


def difference(model, other):
    """Of all weights, relative.  One Llama's writers differ by 1.1e-5 in batches of 13 and 5 samples of one process."""
    ours, its = (torch.cat([p.detach().flatten() for p in one.parameters()]) for one in (model, other))
    return float((ours - its).norm() / its.norm())


def fused_by(count, folders, read, batches, out, options=OPTIONS, work=None):
    """The first process's student, and whether all processes have the same."""

    def work_of(rank):
        distributed.init("cpu")
        streaming = None if work is None else Streaming(work=work / str(rank))
        model = fused(folders, read, batches, options, processes=launched(), streaming=streaming).model
        torch.save(model, out / f"{rank}.pt")
        distributed.shutdown()

    together(work_of, count)
    models = [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(count)]
    pairs = zip(models[0].parameters(), models[-1].parameters(), strict=True)
    return models[0], all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("make", [vit, bert, llama])
@pytest.mark.parametrize("read", [load_model, open_model])
def test_two_processes_get_the_student_of_one(tmp_path, make, read):
    # Batches of unequal size, and parts too.
    folders, batches = saved(tmp_path, make), inputs(make, samples=47, batch=13)
    student, alike = fused_by(2, folders, read, batches, tmp_path)
    assert alike
    assert difference(student, fused(folders, read, batches).model) < 1e-5


def test_a_reconstruction_is_the_first_processes(tmp_path):
    folders, batches = saved(tmp_path, vit), inputs(vit)
    options = OPTIONS.model_copy(update={"polish": 2})
    student, _ = fused_by(2, folders, load_model, batches, tmp_path, options)
    assert difference(student, fused(folders, load_model, batches, options).model) < 1e-5


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="sends a POSIX signal")
def test_killed_processes_go_on_from_a_layer_that_all_have_finished(tmp_path):
    folders, batches, work = saved(tmp_path, llama), inputs(llama), tmp_path / "work"

    def killed(rank):
        from compressor.fusion.build.finished_layers import FinishedLayers

        add = FinishedLayers.add

        def add_and_die(self, *more):
            if rank == 1 and len(self._entries) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            add(self, *more)

        FinishedLayers.add = add_and_die
        distributed.init("cpu")
        fused(folders, open_model, batches, streaming=Streaming(work=work / str(rank)), processes=launched())

    with pytest.raises(AssertionError):
        together(killed)
    assert (work / "0" / "layer-00001.safetensors").exists()
    assert not (work / "1" / "layer-00001.safetensors").exists()
    student, alike = fused_by(2, folders, open_model, batches, tmp_path, work=work)
    (tmp_path / "anew").mkdir()
    anew, _ = fused_by(2, folders, open_model, batches, tmp_path / "anew")
    assert alike and all(torch.equal(a, b) for a, b in zip(student.parameters(), anew.parameters(), strict=True))


def test_every_sample_is_one_processes():
    batches = [{"x": torch.arange(start, stop)} for start, stop in ((0, 5), (5, 6), (6, 13))]
    parts = [Processes(rank, 3).part(batches) for rank in range(3)]
    values = [[int(value) for batch in part for value in batch["x"]] for part in parts]
    assert sorted(itertools.chain(*values)) == list(range(13))
    assert max(map(len, values)) - min(map(len, values)) <= 1


def test_more_processes_than_samples_are_refused():
    with pytest.raises(UserError, match="2 samples to fit to are too few for 3 processes"):
        Processes(0, 3).part_of(CalibrationSet([{"x": torch.zeros(2, 1)}]))
