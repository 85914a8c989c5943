"""Models that are read layer by layer give the student that models in memory give."""

import multiprocessing
import os
import signal

import pytest
import torch
from permuted import permuted
from three_layers import OPTIONS, bert, inputs, llama, vit

from compressor.errors import UserError
from compressor.fusion import fuse_models
from compressor.fusion.streamed_memory import LEAST_STORE_BYTES, predict_memory
from compressor.fusion.streaming import Streaming
from compressor.models.folder.streamed_load import open_model
from compressor.models.folder.weights import load_model
from compressor.models.streamed import blocks_of
from compressor.utils.tensor_store import TensorStore


def saved(tmp_path, make, dtype=torch.float32, **options):
    for seed in (1, 2):
        make(seed, **options).to(dtype).save_pretrained(tmp_path / f"{make.__name__}-{seed}", max_shard_size="10KB")
    return [str(tmp_path / f"{make.__name__}-{seed}") for seed in (1, 2)]


def fused(folders, read, batches, options=OPTIONS, **more):
    return fuse_models([(folder, read(folder)) for folder in folders], 0.5, batches, options, **more)


def largest_difference(model, other):
    """Relative to each parameter's norm."""
    pairs = zip(model.named_parameters(), other.named_parameters(), strict=True)
    return max(float((a - b).norm() / b.norm().clamp(min=1e-6)) for (_, a), (_, b) in pairs)


@pytest.mark.parametrize("make", [vit, bert, llama])
def test_the_student_of_models_on_disk_is_that_of_models_in_memory(tmp_path, make):
    folders, batches = saved(tmp_path, make), inputs(make)
    whole = fused(folders, load_model, batches)
    store = TensorStore(budget=20_000)
    streamed = fused(folders, open_model, batches, streaming=Streaming(store))
    assert store.most_spilled > 20_000 >= store.most_used
    assert largest_difference(streamed.model, whole.model) < 1e-6
    assert streamed.report.fits == whole.report.fits
    assert blocks_of(streamed.model) is None


def fuse_and_die(folders, batches, work, layer, out):
    """Fuse; end the process by SIGKILL once a layer is finished."""
    from compressor.fusion.build.finished_layers import FinishedLayers

    add, count = FinishedLayers.add, []

    def add_and_die(self, *args):
        add(self, *args)
        count.append(1)
        if len(count) == layer:
            os.kill(os.getpid(), signal.SIGKILL)

    FinishedLayers.add = add_and_die
    result = fused(folders, open_model, batches, streaming=Streaming(work=work))
    torch.save((result.model.state_dict(), dict(result.report)), out)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="sends a POSIX signal")
@pytest.mark.parametrize("make", [vit, llama])
def test_a_killed_fusion_goes_on_from_its_last_finished_layer(tmp_path, make):
    folders, batches, work = saved(tmp_path, make), inputs(make), tmp_path / "work"
    whole = fused(folders, open_model, batches)
    for layer in (1, 1):
        # Forked, so that nothing is imported anew.
        child = multiprocessing.get_context("fork").Process(
            target=fuse_and_die, args=(folders, batches, work, layer, tmp_path / "out")
        )
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
    assert len(list(work.glob("layer-*.safetensors"))) == 2
    before = (work / "layer-00000.safetensors").stat().st_mtime_ns
    resumed = fused(folders, open_model, batches, streaming=Streaming(work=work))
    assert (work / "layer-00000.safetensors").stat().st_mtime_ns == before
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))
    assert resumed.report.fits == whole.report.fits
    assert resumed.report.couplings == whole.report.couplings


def test_layers_of_another_fusion_are_not_gone_on_from(tmp_path):
    folders, batches, work = saved(tmp_path, llama), inputs(llama), tmp_path / "work"
    fused(folders, open_model, batches, streaming=Streaming(work=work))
    other = OPTIONS.model_copy(update={"ridge": 0.1})
    again = fused(folders, open_model, batches, other, streaming=Streaming(work=work))
    anew = fused(folders, open_model, batches, other)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), anew.model.parameters(), strict=True))


def test_half_precision_goes_in_and_comes_out(tmp_path):
    folders, batches = saved(tmp_path, llama, torch.bfloat16), inputs(llama)
    models = [open_model(folder) for folder in folders]
    result = fuse_models(list(zip(folders, models, strict=True)), 0.5, batches, OPTIONS)
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.bfloat16}
    whole = fused(folders, load_model, batches)
    assert largest_difference(result.model.float(), whole.model) < 0.01


def test_a_permuted_copy_gives_the_teacher_back(tmp_path):
    teacher = llama(1)
    for name, model in (("a", teacher), ("b", permuted(teacher))):
        model.save_pretrained(tmp_path / name)
    named = [(name, open_model(tmp_path / name)) for name in ("a", "b")]
    batches = inputs(llama)
    options = OPTIONS.model_copy(update={"residual": "barycentre", "inner": "transport", "refit": False})
    student = fuse_models(named, 1.0, batches, options).model
    with torch.no_grad():
        ours, its = (model(**batches[0]).logits for model in (student, teacher))
    assert float((ours - its).norm() / its.norm()) < 1e-6


def test_teachers_without_samples_are_aligned_by_their_weights(tmp_path):
    folders = saved(tmp_path, llama)
    options = OPTIONS.model_copy(update={"residual": "barycentre", "inner": "transport"})
    whole = fused(folders, load_model, None, options)
    streamed = fused(folders, open_model, None, options)
    assert largest_difference(streamed.model, whole.model) < 1e-6


def test_models_in_memory_and_on_disk_are_not_mixed(tmp_path):
    folders = saved(tmp_path, llama)
    models = [(folders[0], open_model(folders[0])), (folders[1], load_model(folders[1]))]
    with pytest.raises(UserError, match="llama-2 is in memory"):
        fuse_models(models, 0.5, inputs(llama), OPTIONS)


@pytest.mark.parametrize("options", [{"polish": 10}, {"residual": "readers"}, {"anchor": "x"}])
def test_what_needs_whole_models_is_refused(tmp_path, options):
    folders = saved(tmp_path, llama)
    with pytest.raises(UserError, match="--max-memory"):
        fused(folders, open_model, inputs(llama), OPTIONS.model_copy(update=options))


@pytest.mark.parametrize("make", [vit, bert])
def test_a_classifiers_head_holds_one_row_a_sample(make):
    config = make(1).config
    few, many = (predict_memory([config] * 2, config, "select", samples).tail for samples in (1, 1024))
    # Inputs and probabilities of the samples, and a descent's vectors of a head 32 wide.
    assert few <= many < few + 1e6


def test_memory_is_predicted_from_configs_and_does_not_grow_with_depth():
    few, many = (
        predict_memory([llama(1, layers).config] * 2, llama(2, layers).config, "select", 64) for layers in (2, 9)
    )
    assert few == many
    assert few.budget(few.fixed + 2 * LEAST_STORE_BYTES) == 2 * LEAST_STORE_BYTES
    with pytest.raises(UserError, match="give --max-memory"):
        few.budget(few.fixed)


def test_maps_of_finished_layers_are_dropped(tmp_path, monkeypatch):
    from compressor.fusion.build.finished_layers import FinishedLayers

    kept, add = [], FinishedLayers.add
    monkeypatch.setattr(
        FinishedLayers, "add", lambda self, *more: (add(self, *more), kept.append(len(self._student.solved)))
    )
    fused(saved(tmp_path, llama), open_model, inputs(llama))
    assert max(kept) <= 1
