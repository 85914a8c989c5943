"""Detectors' places in one order."""

import pytest
import torch
from torch import nn
from transformers import DetrConfig, ResNetConfig, YolosConfig

from compressor.anatomy.hooks import logits_of
from compressor.ensemble.object_places import in_one_order, place_axes, reordered
from compressor.models.configs.reading import model_class
from compressor.models.inputs import dummy_inputs

PLACES = 5


def yolos(places=PLACES):
    return YolosConfig(
        architectures=["YolosForObjectDetection"], hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, image_size=[16, 16], patch_size=8, num_detection_tokens=places, num_labels=3,
        initializer_range=0.5,
    )  # fmt: skip


def detr():
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    return DetrConfig(
        architectures=["DetrForObjectDetection"], backbone_config=backbone, use_timm_backbone=False, backbone=None,
        use_pretrained_backbone=False, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=PLACES, num_labels=3,
        init_std=0.5,
    )  # fmt: skip


def model_of(make, seed=0):
    torch.manual_seed(seed)
    config = make()
    model = model_class(config)(config).eval()
    for parameter in model.parameters():
        if not parameter.any():
            # Fresh places are all alike.
            nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("make", [yolos, detr])
@torch.no_grad()
def test_a_shuffled_detector_is_put_back_in_order(make):
    model, inputs, order = model_of(make), dummy_inputs(make(), 3), torch.tensor([3, 0, 4, 1, 2])
    (axes,) = place_axes(model.config, PLACES)
    shuffled = reordered(model, order, axes)
    torch.testing.assert_close(logits_of(shuffled, inputs), logits_of(model, inputs)[:, order])
    first, second = in_one_order([model, shuffled], [inputs])
    assert first is model and second is not shuffled
    torch.testing.assert_close(logits_of(second, inputs), logits_of(model, inputs))
    (again,) = in_one_order([shuffled], [inputs], model)
    torch.testing.assert_close(logits_of(again, inputs), logits_of(model, inputs))


def test_other_weights_are_shared_and_the_given_models_stay():
    model = model_of(yolos)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (axes,) = place_axes(model.config, PLACES)
    copied = dict(reordered(model, torch.arange(PLACES).flip(0), axes).named_parameters())
    assert {name for name, value in model.named_parameters() if copied[name] is not value} == set(axes)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_as_many_places_as_channels_are_told_apart():
    model, inputs = model_of(lambda: yolos(3)), dummy_inputs(yolos(3), 3)
    *_, axes = place_axes(model.config, 3)
    shuffled = reordered(model, torch.tensor([2, 0, 1]), axes)
    _, second = in_one_order([model, shuffled], [inputs])
    torch.testing.assert_close(logits_of(second, inputs), logits_of(model, inputs))


def test_models_of_other_tasks_stay():
    from transformers import ViTConfig

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = ViTConfig(architectures=["ViTForImageClassification"], **sizes)
    models = [model_class(config)(config).eval() for _ in range(2)]
    assert in_one_order(models, [dummy_inputs(config, 2)]) == models
