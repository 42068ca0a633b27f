"""The kernels that a device's cost model is asked for by the contract: on a grid and off it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.dtypes import BITS
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork, RecurrentWork, Work

#: Sizes on the grid: rows, tokens or keys.
SIZES = (1, 16, 128, 1024, 8192)
_SIXTEEN_BIT = frozenset({"fp16", "bf16"})
#: Formats that weights are stored in for products in 16 bit.
_WEIGHTS = ("fp8", "int8", "int4", "mxfp4", "nvfp4")
#: Bytes of a row read, bytes written and operations, by kernel that moves data.
_ROWS = {
    "norm": (8192.0, 8192.0, 4096.0 * 4),
    "activation": (28672.0, 14336.0, 14336.0 * 5),
    "rotary": (10240.0, 10240.0, 5120.0 * 6),
    "embedding": (8192.0, 8192.0, 0.0),
    "router": (256.0, 64.0, 512.0),
    "copy": (8192.0, 8192.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class NoSuchWork:
    """Work of a family that no device knows."""

    family: ClassVar[str] = "divination"
    label: str = "crystal_ball"
    dtype: str = "bf16"
    flops: float = 1.0
    bytes_read: float = 1.0
    bytes_written: float = 1.0


#: A kernel by its size.
Kernel = Callable[[int], Work]


def needed_kernels(dtype: str) -> Iterator[Kernel]:
    """What a device must price in a format it has: products, and in 16 bit one of each kind."""
    yield lambda m: GemmWork(m, 4096, 4096, dtype, dtype, label="o_proj")
    yield lambda m: GemmWork(m, 128256, 4096, dtype, dtype, label="lm_head")
    if dtype not in _SIXTEEN_BIT:
        return
    yield lambda n: AttentionWork(((n, 0),), 0, 0, 0, 32, 8, 128, 128, dtype, dtype)
    yield lambda n: AttentionWork((), 64, 64 * n, n, 32, 8, 128, 128, dtype, dtype)
    yield lambda n: AttentionWork(((512, n),), 8, 8 * n, n, 32, 8, 128, 128, dtype, dtype)
    yield lambda n: MoeWork(n, 2.0 * n, min(8, 2 * n), 8, 2, 4096, 14336, True, dtype, dtype)
    yield lambda n: MemoryWork("norm", n, 8192.0 * n, 8192.0 * n, 4.0 * n, dtype, "layernorm")


def other_kernels(dtype: str) -> Iterator[Kernel]:
    """What a device may refuse, but must not price wrongly."""
    if dtype == "fp32":
        yield lambda n: MemoryWork("sampler", n, 6.0 * 128256 * n, 4.0 * 128256 * n, 3.0 * n, dtype)
    if dtype not in _SIXTEEN_BIT:
        return
    for weight in _WEIGHTS:
        yield _gemm_of(dtype, weight)
        yield _experts_of(dtype, weight)
    for kernel in _ROWS:
        yield _rows_of(kernel, dtype)
    for cache in (dtype, "fp8"):
        for window in (None, 1024):
            yield _decode_of(dtype, cache, window)
            yield _prefill_of(dtype, cache, window)
        yield _latent_of(dtype, cache)
    yield lambda n: AttentionWork(((n, n),), 0, 0, 0, 16, 16, 192, 128, dtype, dtype)
    yield lambda n: AttentionWork(
        (), 32, 32 * n, n, 32, 8, 128, 128, dtype, dtype, shared_keys=n // 2,
        repeated_keys=31 * (n // 2),
    )  # fmt: skip
    for recurrence in ("gated_delta", "linear_attention", "ssd", "selective_scan", "short_conv"):
        yield _scan_of(recurrence, dtype)
        yield _update_of(recurrence, dtype)


def grid(kernel: Kernel) -> dict[int, Work]:
    """``kernel`` at every size of ``SIZES``, by size."""
    return {size: kernel(size) for size in SIZES}


def drawn(dtype: str, count: int) -> Iterator[Work]:
    """``count`` kernels that ``needed_kernels`` does not have: of sizes that no grid has.

    Drawn at random, the same ones each time.
    """
    rng = random.Random(f"contract {dtype}")
    every = list(other_kernels(dtype))
    for number in range(count):
        if number % 2 or not every:
            yield _odd_gemm(dtype, rng)
        else:
            yield rng.choice(every)(_any_size(rng))


def foreign_formats(known: frozenset[str]) -> Iterator[Work]:
    """Work in number formats other than ``known``."""
    for dtype in BITS:
        if dtype not in known:
            yield GemmWork(8, 8, 8, dtype, dtype, label="o_proj")


def _any_size(rng: random.Random) -> int:
    return int(2.0 ** rng.uniform(0, 15))


def _odd_gemm(dtype: str, rng: random.Random) -> GemmWork:
    n, k = 64 * rng.randint(1, 512), 64 * rng.randint(1, 512)
    return GemmWork(_any_size(rng), n, k, dtype, dtype, label="o_proj")


def _gemm_of(dtype: str, weight: str) -> Kernel:
    return lambda m: GemmWork(m, 6144, 4096, dtype, weight, label="qkv_proj")


def _experts_of(dtype: str, weight: str) -> Kernel:
    def work(n: int) -> Work:
        touched = 128 * (1 - (1 - 1 / 128) ** (8 * n))
        return MoeWork(n, 8.0 * n, touched, 128, 8, 2048, 768, True, dtype, weight)

    return work


def _rows_of(kernel: str, dtype: str) -> Kernel:
    read, written, flops = _ROWS[kernel]
    return lambda n: MemoryWork(kernel, n, read * n, written * n, flops * n, dtype)


def _decode_of(dtype: str, cache: str, window: int | None) -> Kernel:
    def work(n: int) -> Work:
        keys = min(n, window or n)
        return AttentionWork((), 48, 48 * keys, keys, 28, 4, 128, 128, dtype, cache, window)

    return work


def _prefill_of(dtype: str, cache: str, window: int | None) -> Kernel:
    return lambda n: AttentionWork(((n, n),), 0, 0, 0, 28, 4, 128, 128, dtype, cache, window)


def _latent_of(dtype: str, cache: str) -> Kernel:
    plain = AttentionWork((), 32, 0, 0, 16, 1, 576, 512, dtype, cache, latent=True)
    return lambda n: replace(plain, decode_keys=32 * n, decode_keys_max=n)


def _scan_of(recurrence: str, dtype: str) -> Kernel:
    return lambda n: RecurrentWork(recurrence, n, 1, 0, 32, 128, 128, 3e6, 4e4, 1e6, dtype)


def _update_of(recurrence: str, dtype: str) -> Kernel:
    return lambda n: RecurrentWork(recurrence, 0, 0, n, 32, 128, 128, 3e6, 4e4, 1e6, dtype)
