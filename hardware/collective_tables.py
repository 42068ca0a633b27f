"""The ``[calibration.collective]`` table of a device file.

Coefficients of a form, as ``servesim calibrate`` fits them (``CollectiveForm``)::

    [calibration.collective.all_gather]
    latency = {2 = 5.1e-06, 8 = 1.05e-05}           # seconds by ranks
    byte = {2 = 3.6e-12, 8 = 7.2e-12}
    ...

or times as ``servesim profile`` measured them::

    [calibration.collective]
    sizes = [2048, 8192, ...]                       # bytes
    [calibration.collective.all_reduce]
    ranks_2 = [6.2, 7.4, ...]                       # microseconds, one for each size

A row may stop before the last size. ``borrow = "device"`` instead takes what another device has,
scaled by the bandwidth of the links; scaled costs count as analytical.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.collectives import WIRE, CollectiveCost, CollectiveSeconds, RankCurves
from servesim.hardware.cost import Source
from servesim.hardware.device import Device
from servesim.hardware.forms.collective import CollectiveForm
from servesim.hardware.link import Link
from servesim.hardware.tables.grid import Curve

#: Notes of how near the form comes.
COLLECTIVE_ERRORS = ("fit_error", "held_out_error", "held_out_ranks_error")
_NOTES = ("source", "date", "sizes", "most_bytes", *COLLECTIVE_ERRORS, "borrow")
#: Fields of the form that the table as a whole gives.
_GIVEN = ("operation", "most_bytes")
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


def read_curves(table: Mapping[str, Any], where: str) -> dict[str, CollectiveSeconds]:
    """What ``table`` knows, by operation.

    Raises:
        InputError: there is nothing to interpolate over, or a row is malformed.
        UnknownNameError: a key is neither an operation nor a note, or no coefficient.
    """
    sizes = table.get("sizes")
    found: dict[str, CollectiveSeconds] = {}
    for operation, rows in table.items():
        if operation in _NOTES:
            continue
        if operation not in _OPERATIONS:
            known = (*_OPERATIONS, *_NOTES)
            raise UnknownNameError(f"key in {where} [calibration.collective]:", operation, known)
        counted = operation.removeprefix("custom_")
        if sizes:
            curves = {_ranks(key, where): _curve(sizes, row, where) for key, row in rows.items()}
            found[operation] = RankCurves(counted, curves)
        else:
            form = _form(counted, rows, f"{where} [calibration.collective.{operation}]")
            found[operation] = replace(form, most_bytes=table.get("most_bytes", math.inf))
    return found


def _form(operation: str, table: Mapping[str, Any], where: str) -> CollectiveForm:
    """The form whose coefficients ``table`` has."""
    names = [f.name for f in fields(CollectiveForm) if f.name not in _GIVEN]
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in names:
            raise UnknownNameError(f"coefficient in {where}:", name, names)
        values[name] = _by_ranks(value, where) if isinstance(value, Mapping) else value
    if not values.get("latency") or not values.get("byte"):
        raise InputError(f"{where}: latency and byte are missing (or sizes, for times measured)")
    return CollectiveForm(operation, **values)


def _by_ranks(values: Mapping[str, float], where: str) -> dict[int, float]:
    for ranks, value in values.items():
        if not ranks.isdecimal() or int(ranks) < 2 or not value >= 0:
            raise InputError(f"{where}: {ranks} = {value} is no time by ranks (from 2)")
    return {int(ranks): value for ranks, value in values.items()}


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
