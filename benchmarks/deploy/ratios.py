"""How much faster students of random weights are than their teachers, next to the ratio of multiply–accumulates.

    python -m benchmarks.deploy.ratios -o FILE --pair cifar10-vit --threads 1,2 --batches 1,32

All shapes of a half-width student and a teacher are exported and take turns in one process: one after the other for a
tenth of the time each, several times over, so that other load of the machine meets all of them alike.  The ratio is of
medians; its range is of the repetitions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import BertConfig, PretrainedConfig, ViTConfig

from compressor.anatomy import inspect_config
from compressor.bench.latency import measure_latency, onnx_runner
from compressor.bench.size import count_macs
from compressor.export.onnx import write_onnx
from compressor.fusion.shape.spec import student_specs
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import model_class

#: Tokens of texts.
_LENGTH = 64
_IMAGE: dict[str, Any] = {"architectures": ["ViTForImageClassification"], "num_labels": 10}
#: {name: a teacher's config}; two of them are fused.
PAIRS: dict[str, PretrainedConfig] = {
    "cifar10-vit": ViTConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, image_size=32, patch_size=8,
        **_IMAGE,
    ),
    "vit-b": ViTConfig(**_IMAGE),
    "bert": BertConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, vocab_size=8000,
        architectures=["BertForSequenceClassification"],
    ),
}  # fmt: skip


def main(
    output: Annotated[Path, typer.Option("-o", help="Where rows are appended.")],
    pair: Annotated[str, typer.Option(help=f"One of {', '.join(PAIRS)}.")],
    threads: Annotated[str, typer.Option(help="Numbers of threads.")] = "1,2",
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,32",
    seconds: Annotated[float, typer.Option(help="Least measuring time of each model, in each repetition.")] = 2.0,
    repetitions: Annotated[int, typer.Option(help="How often all is measured.")] = 5,
) -> None:
    """Measure one pair."""
    with tempfile.TemporaryDirectory() as scratch:
        files, macs = dict[str, Path](), dict[str, int]()
        for name, config in models(PAIRS[pair]):
            torch.manual_seed(0)
            model = model_class(config)._from_config(config).eval()
            files[name] = write_onnx(model, Path(scratch, str(len(files))), batch_sizes=(1,)).path
            macs[name] = count_macs(config, length=_LENGTH)
        for count in map(int, threads.split(",")):
            for batch in map(int, batches.split(",")):
                inputs = dummy_inputs(PAIRS[pair], batch, _LENGTH)
                runners = {name: onnx_runner(path, inputs, count) for name, path in files.items()}
                rounds = [measure_latency(runners, seconds=seconds / repetitions) for _ in range(repetitions)]
                lines = []
                for name in files:
                    ratios = sorted(each["teacher"].p50_ms / each[name].p50_ms for each in rounds)
                    times = sorted(each[name].p50_ms for each in rounds)
                    lines.append(
                        f"| {pair} | {count} | {batch} | {name} | {times[len(times) // 2]:.2f} ms | "
                        f"{ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | "
                        f"{macs['teacher'] / macs[name]:.2f} |"
                    )
                with output.open("a", encoding="utf-8") as file:
                    file.write("\n".join(lines) + "\n")
                typer.echo("\n".join(lines))


def models(teacher: PretrainedConfig) -> Iterator[tuple[str, PretrainedConfig]]:
    """The teacher, and every shape of a half-width student."""
    yield "teacher", teacher
    anatomy = inspect_config(teacher)
    for narrowing in ("all-heads", "smaller-heads", "fewer-heads"):
        for spec in student_specs(teacher, anatomy, 0.5, narrowing=narrowing, teachers=[teacher, teacher]):
            heads, hidden = spec.config.num_attention_heads, spec.config.hidden_size
            yield f"{heads} heads of {hidden // heads}", spec.config


if __name__ == "__main__":
    typer.run(main)
