"""Devices by name: TOML data sheets in ``devices/``, a file of the user's, or a dotted path."""

from __future__ import annotations

import dataclasses
import importlib
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.device import Device, Efficiency, MemoryTier
from servesim.hardware.host import HostTime
from servesim.hardware.link import Link

T = TypeVar("T")

DEVICES = Path(__file__).parent / "devices"
_PARTS: dict[str, type] = {
    "memory": MemoryTier,
    "cache": MemoryTier,
    "host_link": Link,
    "scale_up": Link,
    "efficiency": Efficiency,
    "host": HostTime,
}
_NOT_IN_FILES = {"costs"}


def device_names() -> tuple[str, ...]:
    """Names of the devices servesim knows, without their aliases, sorted."""
    return tuple(sorted(path.stem for path in DEVICES.glob("*.toml")))


def load_device(name_or_path: str) -> Device:
    """The device called so, described by a TOML file, or made by ``module:attribute``.

    Names ignore case, ``-``, ``_`` and spaces; device files give aliases. The attribute of a
    dotted path is a ``Device`` or a function without arguments that returns one.

    Raises:
        UnknownNameError: no such device, or a key of the file is unknown.
        InputError: the file cannot be read or lacks a value.
    """
    if name_or_path.endswith(".toml"):
        return _from_file(Path(name_or_path))
    if ":" in name_or_path:
        return _from_python(name_or_path)
    stem = _stems().get(_plain(name_or_path))
    if stem is None:
        raise UnknownNameError("device", name_or_path, device_names())
    return _from_file(DEVICES / f"{stem}.toml")


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A dataclass from a TOML table whose keys are its fields.

    Raises:
        UnknownNameError: a key that is not a field.
        InputError: a field without default is missing, or a value has the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in _NOT_IN_FILES}  # type: ignore[arg-type]
    for key, value in table.items():
        if key not in fields:
            raise UnknownNameError(f"key in {where}:", key, fields)
        wanted = str(fields[key].type)
        numeric = wanted.split(maxsplit=1)[0] in {"float", "int"}
        if numeric and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{where}: {key} must be a number, not {value!r}")
        if wanted == "str" and not isinstance(value, str):
            raise InputError(f"{where}: {key} must be text, not {value!r}")
        if wanted == "bool" and not isinstance(value, bool):
            raise InputError(f"{where}: {key} must be true or false, not {value!r}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise InputError(f"{where}: {name} is missing")
    return cls(**table)


def given_link(table: Mapping[str, Any], where: str) -> Link:
    """A link as a scenario gives it: a table with ``bandwidth`` (B/s) and ``latency`` (s).

    Raises:
        UnknownNameError, InputError: as ``build``.
    """
    return build(Link, {"name": "given link", **table}, where)


def read_toml(path: Path) -> dict[str, Any]:
    """The parsed TOML file.

    Raises:
        InputError: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error


def _from_file(path: Path) -> Device:
    table = read_toml(path)
    table.pop("aliases", None)
    table.setdefault("name", path.stem)
    for key, cls in _PARTS.items():
        if key in table:
            if not isinstance(table[key], dict):
                raise InputError(f"{path.name}: {key} must be a table, not {table[key]!r}")
            table[key] = build(cls, table[key], f"{path.name} [{key}]")
    device = build(Device, table, path.name)
    return _with_pim(device) if device.pim else _with_measured(_with_calibration(device))


def _with_pim(device: Device) -> Device:
    """The device with the cost model of its ``[pim]`` units."""
    from servesim.hardware.pim.array import PimArray
    from servesim.hardware.pim.cost import PimCost

    array = build(PimArray, device.pim, f"{device.name} [pim]")
    return dataclasses.replace(device, costs=PimCost(device, array))


def _with_calibration(device: Device) -> Device:
    """The device with the cost model of its ``[calibration]`` (collectives belong to the link)."""
    coefficients = {k: v for k, v in device.calibration.items() if k != "collective"}
    if not coefficients:
        return device
    from servesim.hardware.calibrated import CalibratedCost

    costs = CalibratedCost.from_coefficients(device, coefficients)
    return dataclasses.replace(device, costs=costs)


def _with_measured(device: Device) -> Device:
    """The device with the kernels of its ``[measured]`` table, before all other costs."""
    if not device.measured:
        return device
    from servesim.hardware.measured import MeasuredCost

    costs = MeasuredCost.from_table(device, device.measured, device.cost_model)
    return dataclasses.replace(device, costs=costs)


def _from_python(path: str) -> Device:
    module, _, attribute = path.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"device {path!r} cannot be loaded: {error}") from error
    if callable(made) and not isinstance(made, Device):
        made = made()
    if not isinstance(made, Device):
        raise InputError(f"device {path!r} is a {type(made).__name__}, not a Device")
    return made


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


@cache
def _stems() -> Mapping[str, str]:
    """File stem by plain name and plain alias.

    Raises:
        InputError: two device files claim one name.
    """
    stems: dict[str, str] = {}
    for path in sorted(DEVICES.glob("*.toml")):
        for name in (path.stem, *read_toml(path).get("aliases", ())):
            if stems.setdefault(_plain(name), path.stem) != path.stem:
                raise InputError(f"{path.name}: the name {name!r} belongs to {stems[_plain(name)]}")
    return stems
