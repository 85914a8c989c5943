"""A file above 2 GB, for real: protobuf ends there, so its weights lie in a file of their own.

    python -m benchmarks.deploy.large_file -o FOLDER

A BERT with random weights and wide feed-forward networks is exported, compared with torch, and opened again by ONNX
Runtime from a copy of the folder; prints sizes, the largest difference, seconds and peak memory.  It needs about two
and a half times the file's size of memory (5.3 GB for the 2.2 GB of the defaults), and more than twice of disk.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import BertConfig, BertForSequenceClassification

from compressor.export.onnx import write_onnx
from compressor.export.runtime import Session
from compressor.models.inputs import dummy_inputs
from compressor.utils.process_memory import peak_memory


def main(
    output: Annotated[Path, typer.Option("-o", help="Folder for the files, which are left there.")],
    hidden: Annotated[int, typer.Option(help="Width.")] = 1024,
    ffn: Annotated[int, typer.Option(help="Units of a feed-forward network.")] = 65536,
    layers: Annotated[int, typer.Option(help="Layers.")] = 4,
) -> None:
    """Export one large model, and run it again from elsewhere."""
    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 64, intermediate_size=ffn,
        vocab_size=1000, architectures=["BertForSequenceClassification"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    begin = time.perf_counter()
    report = write_onnx(model, output, batch_sizes=(1, 2))
    seconds = time.perf_counter() - begin
    # External data is found beside the file, wherever the folder is.
    moved = output / "moved"
    shutil.copytree(report.path.parent, moved)
    inputs = dummy_inputs(config, 2)
    with torch.inference_mode():
        expected = model(**inputs).logits
    found = Session(moved / report.path.name).run(inputs)["logits"]
    error = float((found - expected).norm() / expected.norm())
    for file in sorted(moved.iterdir()):
        typer.echo(f"{file.name}: {file.stat().st_size:,} bytes")
    typer.echo(
        f"{parameters / 1e6:.0f} M parameters; parity {report.files[0].parity.max_rel:.1e}, from the copy {error:.1e}; "
        f"{seconds:.0f} s, peak memory {peak_memory() / 1e9:.1f} GB"
    )


if __name__ == "__main__":
    typer.run(main)
