"""Which fast kernels of servers take a student of given sizes, and why others do not.

Sources: FlashAttention's `csrc/flash_attn/flash_api.cpp` (heads up to 256, rounded up to 32) and README; vLLM's
`get_supported_head_sizes` of `v1/attention/backends/flash_attn.py` and `cpu_attn.py`; ONNX Runtime's
`GroupQueryAttention` and `MatMulNBits` (blocks of 32); llama.cpp's blocks of quants, 32, and of K-quants, 256
(https://github.com/ggml-org/llama.cpp/issues/2708, https://github.com/ggml-org/llama.cpp/pull/1921).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Kind
from compressor.models.tasks.table import find_task

#: Heads of vLLM's FlashAttention on GPUs, and of its kernels on CPUs.
_VLLM_GPU = (32, 64, 96, 128, 160, 192, 224, 256)
_VLLM_CPU = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_LARGEST_FLASH, _SMALLEST_FLASH = 256, 32


@dataclass(frozen=True)
class KernelSizes:
    """Sizes that kernels look at.

    Attributes:
        heads: channels of the heads.
        rows: inputs of matrix products with weights.
    """

    heads: frozenset[int]
    rows: frozenset[int]


def kernel_sizes(anatomy: Anatomy) -> KernelSizes:
    """The sizes of a model."""
    spaces = anatomy.spaces.values()
    attentions = [space for space in spaces if space.kind is Kind.ATTENTION]
    inner = {space.heads * space.head_dim for space in attentions}
    rows = {space.size for space in spaces if space.kind in (Kind.RESIDUAL, Kind.HIDDEN)}
    return KernelSizes(frozenset(space.head_dim for space in attentions), frozenset(rows | inner))


def runs_fast_in(anatomy: Anatomy, config: PretrainedConfig) -> dict[str, str]:
    """{kernel: why it does not take the sizes, or ""}; vLLM and llama.cpp for what generates texts."""
    sizes = kernel_sizes(anatomy)
    if not sizes.heads:
        return {}
    found = {
        "FlashAttention": _flash(sizes.heads),
        "ONNX Runtime int4": _each(sizes.rows, "rows", lambda size: size % 32 == 0, "no multiple of 32"),
    }
    if find_task(config).name == "causal-lm":
        found |= {
            "ONNX Runtime GenAI": _each(sizes.heads, "heads", lambda size: size % 16 == 0, "no multiple of 16"),
            "vLLM on GPUs": _each(sizes.heads, "heads", _VLLM_GPU.__contains__, "takes 32, 64, 96, 128, ..."),
            "vLLM on CPUs": _each(sizes.heads, "heads", _VLLM_CPU.__contains__, "takes 32, 64, 80, 96, 112, ..."),
            "llama.cpp q8_0 and q4_0": _each(sizes.rows, "rows", lambda size: size % 32 == 0, "no multiple of 32"),
            "llama.cpp K-quants": _each(sizes.rows, "rows", lambda size: size % 256 == 0, "no multiple of 256"),
        }
    return found


def _flash(heads: Collection[int]) -> str:
    if too_large := _each(heads, "heads", lambda size: size <= _LARGEST_FLASH, f"takes up to {_LARGEST_FLASH}"):
        return too_large
    if odd := _each(heads, "heads", lambda size: size % 8 == 0, "no multiple of 8"):
        return odd
    return _each(heads, "heads", lambda size: size >= _SMALLEST_FLASH, "computed as heads of 32")


def _each(sizes: Collection[int], what: str, fits: Callable[[int], bool], reason: str) -> str:
    """The reason with the sizes that do not fit, or ""."""
    unfit = sorted(size for size in sizes if not fits(size))
    return f"{what} of {', '.join(map(str, unfit))}: {reason}" if unfit else ""
