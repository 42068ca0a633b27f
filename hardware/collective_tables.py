"""The ``[calibration.collective]`` table of a device file.

Coefficients of a form, as ``servesim calibrate`` fits them (``CollectiveForm``)::

    [calibration.collective.all_gather]
    latency = {2 = 5.1e-06, 8 = 1.05e-05}           # seconds by ranks
    byte = {2 = 3.6e-12, 8 = 7.2e-12}
    most_bytes = 536870912                          # the largest payload measured
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

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.all_reduce import CUSTOM, SYMMETRIC, counted
from servesim.hardware.calibration_entry import is_number
from servesim.hardware.collectives import WIRE, CollectiveCost, CollectiveSeconds, RankCurves
from servesim.hardware.cost import Source
from servesim.hardware.device import Device
from servesim.hardware.forms.collective import CollectiveForm
from servesim.hardware.link import Link
from servesim.hardware.tables.grid import Curve

#: Notes of how near the form comes.
COLLECTIVE_ERRORS = ("fit_error", "held_out_error", "held_out_ranks_error")
_NOTES = ("source", "date", "sizes", "most_bytes", *COLLECTIVE_ERRORS, "borrow")
#: What the protocol for large payloads has: all of it or nothing.
_BULK = ("switch", "bulk_latency", "bulk_byte")
_OPERATIONS = (*WIRE, CUSTOM, SYMMETRIC)


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
    where = f"{where} [calibration.collective]"
    sizes = _numbers("sizes", table["sizes"], where) if "sizes" in table else None
    found: dict[str, CollectiveSeconds] = {}
    for operation, rows in table.items():
        if operation in _NOTES:
            continue
        if operation not in _OPERATIONS:
            raise UnknownNameError(f"key in {where}:", operation, (*_OPERATIONS, *_NOTES))
        if not isinstance(rows, Mapping):
            raise InputError(f"{where}: {operation} must be a table, not {rows!r}")
        plain = counted(operation)
        if sizes is not None:
            curves = {_ranks(key, where): _curve(sizes, row, where) for key, row in rows.items()}
            found[operation] = RankCurves(plain, curves)
        else:
            most = {"most_bytes": table["most_bytes"]} if "most_bytes" in table else {}
            found[operation] = _form(plain, {**most, **rows}, f"{where[:-1]}.{operation}]")
    return found


def _form(operation: str, table: Mapping[str, Any], where: str) -> CollectiveForm:
    """The form whose coefficients ``table`` has."""
    known = {f.name: str(f.type) for f in fields(CollectiveForm) if f.name != "operation"}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name.startswith("ranks_"):
            raise InputError(f"{where}: sizes is missing, the payloads that {name} is for")
        if name not in known:
            raise UnknownNameError(f"coefficient in {where}:", name, known)
        read = _number if known[name] == "float" else _by_ranks
        values[name] = read(name, value, where)
    if not values.get("latency") or not values.get("byte"):
        raise InputError(f"{where}: latency and byte are missing (or sizes, for times measured)")
    if given := [name for name in _BULK if name in values]:
        for name in _BULK:
            if name not in values:
                raise InputError(f"{where}: {given[0]} needs {name} too")
    return CollectiveForm(operation, **values)


def _number(name: str, value: Any, where: str) -> float:
    if not is_number(value):
        raise InputError(f"{where}: {name} must be a number, not {value!r}")
    return float(value)


def _numbers(name: str, values: Any, where: str) -> list[float]:
    if not isinstance(values, list) or not all(map(is_number, values)):
        raise InputError(f"{where}: {name} must be a list of numbers, not {values!r}")
    return values


def _by_ranks(name: str, values: Any, where: str) -> dict[int, float]:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: {name} must be given by ranks, {{2 = 5e-06}}, not {values!r}")
    for ranks, value in values.items():
        if not ranks.isdecimal() or int(ranks) < 2 or not is_number(value) or not value >= 0:
            raise InputError(f"{where}: {name}: {ranks} = {value!r} is no time by ranks (from 2)")
    return {int(ranks): float(value) for ranks, value in values.items()}


def _ranks(key: str, where: str) -> int:
    digits = key.removeprefix("ranks_")
    if not digits.isdecimal() or int(digits) < 2:
        raise InputError(f"{where}: {key!r} is not ranks_<2 or more>")
    return int(digits)


def _curve(sizes: list[float], row: Any, where: str) -> Curve:
    valid = isinstance(row, list) and all(is_number(value) and value > 0 for value in row)
    if not valid or not 1 < len(row) <= len(sizes):
        raise InputError(
            f"{where}: a row must have 2 to {len(sizes)} positive microseconds, not {row}"
        )
    return Curve.of((size, us * 1e-6) for size, us in zip(sizes, row, strict=False))
