"""What modules put out while their model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from compressor.anatomy.hooks import first_tensor, hooks


@contextmanager
def capture_outputs(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Fill a dict with what modules return, call by call, while the model runs inside the block."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            found = first_tensor(output)
            if found is not None:
                seen[name].append(found)

        return hook

    with hooks([model.get_submodule(name).register_forward_hook(note(name)) for name in seen]):
        yield seen
