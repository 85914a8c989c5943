"""Tiny sentence-embedding models as sentence-transformers saves them, and pairs with scores."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from tiny_text import save_text_model, sentences

LIBRARY = "sentence_transformers.models"


def save_sentence_model(folder, seed=0, *, mode="mean_tokens", dense=None, normalise=True, **more):
    """A tiny BERT with modules.json; `dense` is a linear map's width after the pooling."""
    import torch
    from safetensors.torch import save_file

    folder = save_text_model(folder, "features", seed=seed, **more)
    width = more.get("hidden_size", 32)
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalise else [])]
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "", "type": f"{LIBRARY}.{kind}"}
        for index, kind in enumerate(kinds)
    ]
    put(folder / "modules.json", modules)
    put(folder / "1_Pooling/config.json", {"word_embedding_dimension": width, f"pooling_mode_{mode}": True})
    if dense:
        values = {"in_features": width, "out_features": dense, "bias": True}
        put(folder / "2_Dense/config.json", {**values, "activation_function": "torch.nn.modules.linear.Identity"})
        draw = torch.Generator().manual_seed(seed)
        tensors = {
            "linear.weight": torch.randn(dense, width, generator=draw),
            "linear.bias": torch.randn(dense, generator=draw),
        }
        save_file(tensors, folder / "2_Dense/model.safetensors")
    return folder


def save_scored_pairs(path, count=24):
    """csv of pairs of sentences with a score in [0, 1]."""
    draw, texts = random.Random(0), iter(sentences(2 * count, 4))
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sentence1", "sentence2", "score"])
        rows.writerows([next(texts), next(texts), round(draw.random(), 2)] for _ in range(count))
    return Path(path)


def put(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
