"""The ``[calibration.collective]`` table of a device file, as curves.

::

    [calibration.collective]
    source = "where the measurements are from"
    sizes = [2048, 8192, ...]                       # bytes
    [calibration.collective.all_reduce]
    ranks_2 = [6.2, 7.4, ...]                       # microseconds, one for each size

A row may stop before the last size. ``borrow = "device"`` instead takes another device's curves,
scaled by the bandwidth of the links; scaled costs count as analytical.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.collectives import WIRE, CollectiveCost, RankCurves
from servesim.hardware.cost import Source
from servesim.hardware.device import Device
from servesim.hardware.link import Link
from servesim.hardware.tables.grid import Curve

_NOTES = ("source", "date", "sizes", "fit_error", "held_out_error", "borrow")
_OPERATIONS = (*WIRE, "custom_all_reduce")


def collective_cost(
    device: Device, load: Callable[[str], Device], link: Link | None = None
) -> CollectiveCost:
    """The cost model of collectives among devices like ``device``.

    The curves were measured between devices with peer access; without, closed forms answer. Over
    a faster or slower link the same curves hold for more or fewer bytes.

    Args:
        load: finds the device curves are borrowed from.
        link: joins the devices instead of their peer link.

    Raises:
        InputError: the device has no link to peers, or its table is malformed.
    """
    link = link or device.peer_link
    if link is None:
        raise InputError(f"{device.name} has no link to peers, so no group of it can be formed")
    table: Mapping[str, Any] = device.calibration.get("collective", {})
    if not table or not link.peer_access:
        return CollectiveCost(link)
    lender = load(table["borrow"]) if "borrow" in table else device
    speed = link.bandwidth / _measured_link(lender).bandwidth
    curves = read_curves(lender.calibration["collective"], lender.name)
    same = lender is device and speed == 1
    return CollectiveCost(link, curves, speed, Source.CALIBRATED if same else Source.ANALYTICAL)


def _measured_link(device: Device) -> Link:
    """The link with peer access, over which the device's curves were measured."""
    for link in (device.scale_up, device.host_link):
        if link is not None and link.peer_access:
            return link
    raise InputError(f"{device.name} has collectives but no link with peer access")


def read_curves(table: Mapping[str, Any], where: str) -> dict[str, RankCurves]:
    """Curves by operation.

    Raises:
        InputError: sizes are missing or a row is malformed.
        UnknownNameError: a key is neither an operation nor a note.
    """
    sizes = table.get("sizes")
    if not sizes:
        raise InputError(f"{where} [calibration.collective]: sizes is missing")
    found: dict[str, RankCurves] = {}
    for operation, rows in table.items():
        if operation in _NOTES:
            continue
        if operation not in _OPERATIONS:
            known = (*_OPERATIONS, *_NOTES)
            raise UnknownNameError(f"key in {where} [calibration.collective]:", operation, known)
        curves = {_ranks(key, where): _curve(sizes, row, where) for key, row in rows.items()}
        found[operation] = RankCurves(operation.removeprefix("custom_"), curves)
    return found


def _ranks(key: str, where: str) -> int:
    digits = key.removeprefix("ranks_")
    if not digits.isdecimal() or int(digits) < 2:
        raise InputError(f"{where} [calibration.collective]: {key!r} is not ranks_<2 or more>")
    return int(digits)


def _curve(sizes: list[float], row: list[float], where: str) -> Curve:
    if not 1 < len(row) <= len(sizes) or not all(value > 0 for value in row):
        raise InputError(
            f"{where} [calibration.collective]: a row must have 2 to {len(sizes)} positive "
            f"microseconds, not {row}"
        )
    return Curve.of((size, us * 1e-6) for size, us in zip(sizes, row, strict=False))
