"""Random operands."""

from __future__ import annotations

from typing import Any

from servesim.errors import UnsupportedError

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def torch_dtype(name: str) -> Any:
    """torch's dtype of a number format.

    Raises:
        UnsupportedError: a format that these kernels do not compute in.
    """
    import torch

    if name not in _DTYPES:
        raise UnsupportedError(f"no kernel in {name}")
    return getattr(torch, _DTYPES[name])


def random(shape: tuple[int, ...], dtype: str, device: str) -> Any:
    """Normal numbers, small enough that sums of thousands of products stay finite."""
    import torch

    tensor = torch.empty(shape, dtype=torch_dtype(dtype), device=device)
    return tensor.normal_(0.0, 0.05)


def eight_bit(shape: tuple[int, ...], device: str) -> Any:
    """Normal numbers as 8-bit floats (e4m3)."""
    import torch

    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_().to(torch.float8_e4m3fn)


def scales(shape: tuple[int, ...], device: str) -> Any:
    """32-bit scales of 8-bit operands."""
    import torch

    return torch.ones(shape, dtype=torch.float32, device=device)


def copies(first: Any, count: int) -> list[Any]:
    """``first`` and copies of it, each in memory of its own."""
    return [first, *(first.clone() for _ in range(count - 1))]


def free(device: str) -> None:
    """Hand back what torch keeps of a GPU's memory for later: a kernel did not fit beside it."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
