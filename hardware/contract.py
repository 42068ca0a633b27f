"""What every device's cost model must hold to, as one function to call on yours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from servesim.errors import UnsupportedError
from servesim.graph.dtypes import BITS
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork, Work
from servesim.hardware.cost import Source
from servesim.hardware.device import Device

#: How a cost may fall below its bound by rounding.
ROUNDING = 1e-9
_SIZES = (1, 16, 128, 1024, 8192)
#: From here on more work may not take less time; for few rows libraries do have kernels that are
#: faster for more (measured: NVFP4 products on RTX PRO 6000, by up to half).
_GROWS_FROM = 128


class ContractError(AssertionError):
    """A device whose costs cannot be true; the message names the work and the rule it broke."""


@dataclass(frozen=True, slots=True)
class _NoSuchWork:
    """Work of a family that no device knows."""

    family: ClassVar[str] = "divination"
    label: str = "crystal_ball"
    dtype: str = "bf16"
    flops: float = 1.0
    bytes_read: float = 1.0
    bytes_written: float = 1.0


def check_device(device: Device) -> None:
    """Ask ``device`` for the costs of many kernels and hold them to physics.

    Times are positive and finite, the same when asked again, never below what peak arithmetic
    or memory bandwidth allows (what fits the last-level cache may come from there), and eight
    times the work of a large kernel never takes less time. Unknown families and number formats
    are refused.

    Raises:
        ContractError: a rule is broken.
    """
    for dtype in sorted(device.peak_flops):
        for grow in _series(dtype):
            works = [grow(size) for size in _SIZES]
            times = [_check_work(device, work) for work in works]
            for (small, less), (large, more) in _pairs(works, times):
                if more < less:
                    raise ContractError(
                        f"{device.name}: {large} takes {more} s, less than {small} with {less} s"
                    )
    _must_refuse(device, _NoSuchWork())
    for dtype in BITS:
        if dtype not in device.peak_flops:
            _must_refuse(device, GemmWork(8, 8, 8, dtype, dtype, label="o_proj"))


def _series(dtype: str) -> Iterator[Callable[[int], Work]]:
    """Kernels of growing size."""
    yield lambda m: GemmWork(m, 4096, 4096, dtype, dtype, label="o_proj")
    yield lambda m: GemmWork(m, 128256, 4096, dtype, dtype, label="lm_head")
    if dtype not in {"fp16", "bf16"}:
        return
    yield lambda n: AttentionWork(((n, 0),), 0, 0, 0, 32, 8, 128, 128, dtype, dtype)
    yield lambda n: AttentionWork((), 64, 64 * n, n, 32, 8, 128, 128, dtype, dtype)
    yield lambda n: AttentionWork(((512, n),), 8, 8 * n, n, 32, 8, 128, 128, dtype, dtype)
    yield lambda n: MoeWork(n, 2.0 * n, min(8, 2 * n), 8, 2, 4096, 14336, True, dtype, dtype)
    yield lambda n: MemoryWork("norm", n, 8192.0 * n, 8192.0 * n, 4.0 * n, dtype, "layernorm")


def _check_work(device: Device, work: Work) -> float:
    cost, again = device.cost_model.cost(work), device.cost_model.cost(work)
    if cost != again:
        raise ContractError(f"{device.name}: {work} costs {cost}, then {again}")
    if not (math.isfinite(cost.seconds) and cost.seconds > 0):
        raise ContractError(f"{device.name}: {work} takes {cost.seconds} s")
    if not isinstance(cost.source, Source):
        raise ContractError(f"{device.name}: {work} has the unknown source {cost.source!r}")
    arithmetic = work.flops / device.flops_for(work.dtype)
    far = work.bytes_read + work.bytes_written - device.cache_bytes
    moved = max(0.0, far) / device.memory.bandwidth
    for bound, name in ((arithmetic, "peak arithmetic"), (moved, "memory bandwidth")):
        if cost.seconds < bound * (1 - ROUNDING):
            raise ContractError(
                f"{device.name}: {work} takes {cost.seconds} s, but {name} needs {bound} s"
            )
    return cost.seconds


def _pairs(
    works: list[Work], times: list[float]
) -> Iterator[tuple[tuple[Work, float], tuple[Work, float]]]:
    """Kernels that must not get faster, each with the next larger one."""
    asked = list(zip(works, times, strict=True))[_SIZES.index(_GROWS_FROM) :]
    return pairwise(asked)


def _must_refuse(device: Device, work: Work) -> None:
    try:
        cost = device.cost_model.cost(work)
    except UnsupportedError:
        return
    raise ContractError(f"{device.name}: {work} must be refused, but costs {cost}")
