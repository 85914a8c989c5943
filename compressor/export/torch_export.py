"""Graphs as torch.export programs, which need only torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.errors import ParityError, UnsupportedError
from compressor.export.graphs import OnnxGraph
from compressor.export.runtime import with_one_text
from compressor.utils.logging import one_line


class _ByName(nn.Module):
    """From a dict of inputs to a dict of outputs."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        # Torch replaces this module by one with an attribute `graph`.
        self.computes = graph

    def forward(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.computes.call(values)


def write_program(graph: OnnxGraph, path: Path) -> None:
    """Write a .pt2 file for any batch size and length, from a dict of inputs to a dict of outputs.

    Raises:
        UnsupportedError: torch cannot export the graph.
    """
    axes = {name: dict.fromkeys(graph.axes[name], torch.export.Dim.DYNAMIC) for name in graph.inputs}
    try:
        program = torch.export.export(_ByName(graph), (graph.inputs,), dynamic_shapes=(axes,), strict=False)
        _remove_stack_traces(program)
        torch.export.save(program, path)
    # Tracing raises errors of any class.
    except Exception as error:
        raise UnsupportedError(f"torch.export cannot take {type(graph.model).__name__}: {one_line(error)}") from error


def _remove_stack_traces(program: torch.export.ExportedProgram) -> None:
    """Remove stack traces, which reveal local folders."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


class Program:
    """An open program, a `Runnable`.

    Raises:
        ParityError: torch cannot load it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            program = torch.export.load(self.path)
            self._module = program.module()
            (example,), _ = program.example_inputs
            self.outputs: tuple[str, ...] = tuple(program.call_spec.out_spec.context)
        except Exception as error:
            raise ParityError(f"{path} is not a program that torch loads: {one_line(error)}") from error
        #: Name to shape, of the example.
        self.inputs: dict[str, list[int | str | None]] = {name: list(value.shape) for name, value in example.items()}

    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; ignores unknown inputs.

        Raises:
            ParityError: the program does not run.
        """
        values = with_one_text(values, self.inputs)
        inputs = {name: values[name].contiguous() for name in self.inputs if name in values}
        try:
            with torch.inference_mode():
                return dict(self._module(inputs))
        except Exception as error:
            sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            raise ParityError(f"{self.path} does not run in torch on {sizes}: {one_line(error)}") from error

    def empty_past(self, batch: int) -> dict[str, Tensor]:
        """Empty: there is no past."""
        return {}
