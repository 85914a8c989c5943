"""Random models of three layers, their inputs, and a fusion that leaves nothing to choose."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from compressor.recipe import FusionOptions

#: Nothing is left to choose by pilots, which a streamed fusion does not build.
OPTIONS = FusionOptions(
    residual="principal", inner="select", narrowing="fewer-heads", polish=0, weights=(1, 1), mixture="logits"
)


def vit(seed):
    config = ViTConfig(
        image_size=16, patch_size=4, hidden_size=32, num_attention_heads=4, num_hidden_layers=3, intermediate_size=48,
        num_labels=3,
    )  # fmt: skip
    return of(ViTForImageClassification, config, seed)


def bert(seed):
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_attention_heads=4, num_hidden_layers=3, intermediate_size=48,
        max_position_embeddings=24, num_labels=3,
    )  # fmt: skip
    return of(BertForSequenceClassification, config, seed)


def llama(seed, layers=3):
    config = LlamaConfig(
        vocab_size=60, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=layers,
        intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    return of(LlamaForCausalLM, config, seed)


def of(kind, config, seed):
    torch.manual_seed(seed)
    config.architectures = [kind.__name__]
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # So large that activations differ from sample to sample.
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def inputs(kind, samples=48, batch=16):
    torch.manual_seed(9)
    if kind is vit:
        whole = {"pixel_values": torch.randn(samples, 3, 16, 16)}
    else:
        lengths = torch.randint(6, 20, (samples, 1))
        ids = torch.randint(3, 60, (samples, 20))
        mask = (torch.arange(20) < lengths).long()
        whole = {"input_ids": ids * mask, "attention_mask": mask}
    starts = range(0, samples, batch)
    return [{name: value[start : start + batch] for name, value in whole.items()} for start in starts]
