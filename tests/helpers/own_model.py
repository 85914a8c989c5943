"""A folder with a small image classifier whose class and config are code of its own."""

from __future__ import annotations

import json
from pathlib import Path

import torch

CONFIG = """
from transformers import PretrainedConfig


class OwnConfig(PretrainedConfig):
    model_type = "own"

    def __init__(self, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=2,
                 image_size=8, patch_size=4, num_channels=3, **kwargs):
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.num_attention_heads, self.num_hidden_layers = num_attention_heads, num_hidden_layers
        self.image_size, self.patch_size, self.num_channels = image_size, patch_size, num_channels
        super().__init__(**kwargs)
"""

MODEL = """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_own import OwnConfig


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, config.intermediate_size), nn.Linear(config.intermediate_size, width)

    def forward(self, stream):
        count, tokens, width = stream.shape
        normed = self.before(stream)
        query, key, value = (
            part(normed).view(count, tokens, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(count, tokens, width)
        stream = stream + self.out(mixed)
        return stream + self.down(torch.nn.functional.gelu(self.up(self.between(stream))))


class OwnForImageClassification(PreTrainedModel):
    config_class = OwnConfig
    main_input_name = "pixel_values"
    base_model_prefix = "own"

    def __init__(self, config):
        super().__init__(config)
        tokens = (config.image_size // config.patch_size) ** 2
        self.patches = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        self.positions = nn.Parameter(torch.randn(1, tokens, config.hidden_size) * 0.02)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, labels=None, output_hidden_states=False, output_attentions=False, **kwargs):
        stream = self.patches(pixel_values).flatten(2).transpose(1, 2) + self.positions
        hidden = [stream]
        for layer in self.layers:
            stream = layer(stream)
            hidden.append(stream)
        logits = self.classifier(self.norm(stream).mean(1))
        return ImageClassifierOutput(logits=logits, hidden_states=tuple(hidden) if output_hidden_states else None)
"""


def save_own_model(folder: Path, seed: int, *, sentinel: Path | None = None) -> Path:
    """Write weights, config, preprocessor and code; `sentinel`: a file that is written when the code runs."""
    folder.mkdir(parents=True)
    ran = "" if sentinel is None else f"open({str(sentinel)!r}, 'w').close()\n"
    (folder / "configuration_own.py").write_text(ran + CONFIG)
    (folder / "modeling_own.py").write_text(ran + MODEL)
    parts = {"AutoConfig": "configuration_own.OwnConfig"}
    parts["AutoModelForImageClassification"] = "modeling_own.OwnForImageClassification"
    values = {"model_type": "own", "architectures": ["OwnForImageClassification"], "auto_map": parts}
    (folder / "config.json").write_text(json.dumps({**values, "id2label": {str(i): f"class {i}" for i in range(3)}}))
    size = {"height": 8, "width": 8}
    processor = {"image_processor_type": "ViTImageProcessor", "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    _save_weights(folder, seed)
    return folder


def _save_weights(folder: Path, seed: int) -> None:
    from safetensors.torch import save_file

    # Shapes as the code has them; importing it here would run it in this process.
    draw = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"positions": (1, 4, 32), "patches.weight": (32, 3, 4, 4)}
    shapes |= {"patches.bias": (32,), "classifier.weight": (3, 32), "classifier.bias": (3,)}
    for layer in range(2):
        linear = dict.fromkeys(("query", "key", "value", "out"), (32, 32)) | {"up": (64, 32), "down": (32, 64)}
        for name, shape in linear.items():
            shapes |= {f"layers.{layer}.{name}.weight": shape, f"layers.{layer}.{name}.bias": shape[:1]}
    weights = {name: torch.randn(shape, generator=draw) * shape[-1] ** -0.5 for name, shape in shapes.items()}
    for norm in ("norm", *(f"layers.{layer}.{name}" for layer in range(2) for name in ("before", "between"))):
        weights |= {f"{norm}.weight": torch.ones(32), f"{norm}.bias": torch.zeros(32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
