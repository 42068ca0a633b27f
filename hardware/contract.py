"""What every device's cost model must hold to, as one function to call on yours."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from servesim.errors import InputError, UnsupportedError
from servesim.graph.work import Work
from servesim.hardware.bounds import arithmetic_seconds, memory_seconds
from servesim.hardware.contract_kernels import (
    NoSuchWork,
    drawn,
    foreign_formats,
    grid,
    needed_kernels,
    other_kernels,
)
from servesim.hardware.cost import usable
from servesim.hardware.device import Device

#: How a cost may fall below its bound by rounding.
ROUNDING = 1e-9
#: From here on more work may not take less time; for few rows libraries do have kernels that are
#: faster for more (measured: NVFP4 products on RTX PRO 6000, by up to half).
_GROWS_FROM = 128
#: Kernels off the grid, of each number format.
_DRAWN, _FEW = 200, 8


class ContractError(AssertionError):
    """A device whose costs cannot be true; the message names the work and the rule it broke."""


def check_device(device: Device) -> None:
    """Ask ``device`` for the costs of many kernels and hold them to physics.

    Times are positive and finite, the same when asked again, never below what peak arithmetic
    or memory bandwidth allows (what fits the last-level cache may come from there), and eight
    times the work of a large kernel never takes less time. Each has one of the known sources, so
    that shares of time by source add up to the whole. Unknown families and number formats are
    refused. Kernels are products in the device's formats, attention, experts and norms in 16 bit;
    and, unless the device refuses them, windows, latent attention, recurrences, 8-bit caches,
    quantised weights and kernels that move data, on a grid of sizes and at sizes drawn at random.

    Raises:
        ContractError: a rule is broken.
    """
    for dtype in sorted(device.peak_flops):
        for kernel in needed_kernels(dtype):
            _must_grow(device, grid(kernel))
        for kernel in other_kernels(dtype):
            works = grid(kernel).items()
            _must_grow(device, {size: work for size, work in works if _has_price(device, work)})
        for work in drawn(dtype, _DRAWN):
            if _has_price(device, work):
                _seconds(device, work)
    _must_refuse(device, NoSuchWork())
    for work in foreign_formats(frozenset(device.peak_flops)):
        _must_refuse(device, work)


def check_quickly(device: Device) -> None:
    """The part of :func:`check_device` that takes milliseconds: kernels of one size, and a few odd.

    Raises:
        ContractError: a rule is broken.
    """
    for dtype in sorted(device.peak_flops):
        kernels = [*needed_kernels(dtype), *other_kernels(dtype)]
        works = [*(kernel(_GROWS_FROM) for kernel in kernels), *drawn(dtype, _FEW)]
        for work in works:
            if _has_price(device, work):
                _seconds(device, work)


def _has_price(device: Device, work: Work) -> bool:
    """Whether the device does not refuse ``work``."""
    try:
        device.cost_model.cost(work)
    except UnsupportedError:
        return False
    except InputError as error:
        raise ContractError(str(error)) from error
    return True


def _must_grow(device: Device, works: Mapping[int, Work]) -> None:
    """Hold ``works``, by size, to take no less the larger they are."""
    asked = [(size, work, _seconds(device, work)) for size, work in works.items()]
    grown = [(work, seconds) for size, work, seconds in asked if size >= _GROWS_FROM]
    for (small, less), (large, more) in pairwise(grown):
        if more < less:
            raise ContractError(
                f"{device.name}: {large} takes {more} s, less than {small} with {less} s"
            )


def _seconds(device: Device, work: Work) -> float:
    """The time of ``work``, held to all that a single kernel can be held to."""
    try:
        cost = usable(device.cost_model.cost(work), device.name, work)
    except UnsupportedError as error:
        raise ContractError(f"{device.name}: {work} must have a price: {error}") from error
    except InputError as error:
        raise ContractError(str(error)) from error
    if cost != (again := device.cost_model.cost(work)):
        raise ContractError(f"{device.name}: {work} costs {cost}, then {again}")
    if cost.seconds == 0.0:
        raise ContractError(f"{device.name}: {work} takes {cost.seconds} s")
    for bound, name in (
        (arithmetic_seconds(work, device), "peak arithmetic"),
        (memory_seconds(work, device), "memory bandwidth"),
    ):
        if cost.seconds < bound * (1 - ROUNDING):
            raise ContractError(
                f"{device.name}: {work} takes {cost.seconds} s, but {name} needs {bound} s"
            )
    return cost.seconds


def _must_refuse(device: Device, work: Work) -> None:
    try:
        cost = device.cost_model.cost(work)
    except UnsupportedError:
        return
    raise ContractError(f"{device.name}: {work} must be refused, but costs {cost}")
