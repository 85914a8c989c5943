import copy

import pytest
import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from compressor.anatomy import inspect_config
from compressor.anatomy.batch_norms import batch_norms, measure_statistics, without_statistics
from compressor.fusion import fuse_models
from compressor.models.inputs import dummy_inputs


def segformer(**fields):
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[3, 3],
        strides=[2, 2], num_attention_heads=[2, 4], mlp_ratios=[2, 2], decoder_hidden_size=24, num_labels=5, **fields,
    )  # fmt: skip
    config.architectures = ["SegformerForSemanticSegmentation"]
    return config


def trained_like(seed=0):
    """A model whose batch norms have statistics as after a training."""
    torch.manual_seed(seed)
    model = SegformerForSemanticSegmentation(segformer()).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def batches(model, count=2, size=4):
    return [
        {"pixel_values": torch.randn(size, 3, 16, 16, generator=torch.Generator().manual_seed(index))}
        for index in range(count)
    ]


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_folded_statistics_leave_the_answers_and_the_given_model():
    model = trained_like()
    before = copy.deepcopy(model.state_dict())
    folded = without_statistics(model)
    (batch,) = batches(model, 1)
    torch.testing.assert_close(logits(folded, batch), logits(model, batch), atol=1e-5, rtol=1e-5)
    assert all(norm.running_mean.abs().max() == 0 and norm.running_var.min() == 1 for norm in batch_norms(folded))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_measured_statistics_are_those_of_the_inputs():
    model = without_statistics(trained_like())
    samples = batches(model)
    before = [logits(model, batch) for batch in samples]
    measure_statistics(model, samples)
    for batch, expected in zip(samples, before, strict=True):
        torch.testing.assert_close(logits(model, batch), expected, atol=1e-4, rtol=1e-4)
    # In training the batch's own statistics count, which are these if it is all samples.
    whole = {"pixel_values": torch.cat([batch["pixel_values"] for batch in samples])}
    expected = logits(model, whole)
    model.decode_head.batch_norm.train()
    assert (logits(model, whole) - expected).norm() < 0.05 * expected.norm()


def test_channels_of_batch_norms_are_a_space_that_becomes_narrower():
    anatomy = inspect_config(segformer())
    assert anatomy.fields["decoder_hidden_size"] == "ffn"
    assert anatomy.axes["decode_head.batch_norm.weight"][0].parts[0].key == "decode_head.linear_fuse"
    assert anatomy.error < 1e-5


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_models_with_batch_norms_are_fused(width):
    model = trained_like()
    result = fuse_models([("one", model)], width, [dummy_inputs(model.config, 4, seed=i) for i in range(2)])
    student = result.model
    assert student.config.decoder_hidden_size == 24 * width
    if width == 1.0:
        (batch,) = batches(model, 1)
        torch.testing.assert_close(logits(student, batch), logits(model, batch), atol=1e-4, rtol=1e-4)
        assert student.decode_head.batch_norm.running_var.std() > 0
