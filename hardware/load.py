"""Devices by name (a file in ``devices/``), by the path of a file, or by a dotted path.

A file is a data sheet in TOML, or Python that defines ``device``.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from servesim.errors import InputError, ServesimError, UnknownNameError
from servesim.hardware.device import Device, Efficiency, MemoryTier
from servesim.hardware.host import HostTime
from servesim.hardware.link import Link

T = TypeVar("T")

DEVICES = Path(__file__).parent / "devices"
_SUFFIXES = (".toml", ".py")
_PARTS: dict[str, type] = {
    "memory": MemoryTier,
    "cache": MemoryTier,
    "host_link": Link,
    "scale_up": Link,
    "efficiency": Efficiency,
    "host": HostTime,
}
#: Words before the device's own name.
_MAKERS = {"nvidia", "geforce", "tesla", "quadro", "amd", "instinct", "intel", "google"}
_NOT_IN_FILES = {"costs"}
#: What a device file in Python calls the device it defines.
_ATTRIBUTE = "device"


def device_names() -> tuple[str, ...]:
    """Names of the devices servesim knows, without their aliases, sorted."""
    return tuple(sorted(path.stem for path in _files()))


def load_device(name_or_path: str) -> Device:
    """The device called so, described by a file, or made by ``module:attribute``.

    Names ignore case, ``-``, ``_`` and spaces; data sheets give aliases. The attribute of a
    dotted path, like ``device`` of a file in Python, is a ``Device`` or a function without
    arguments that returns one; a few dozen of its costs are held to the contract of devices.

    Raises:
        UnknownNameError: no such device, or a key of the file is unknown.
        InputError: the file cannot be read or lacks a value, or costs break the contract.
    """
    if name_or_path.endswith(_SUFFIXES):
        return _from_path(Path(name_or_path))
    if ":" in name_or_path:
        return _from_python(name_or_path)
    path = _named().get(_plain(name_or_path))
    if path is None:
        raise UnknownNameError("device", name_or_path, device_names())
    return _from_path(path)


def known_device(name: str) -> str | None:
    """The device that a driver's name for it begins with, e.g. ``NVIDIA H100 80GB HBM3``.

    The longest run of leading words that is a device's name or alias decides; None without any.
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    while words and words[0] in _MAKERS:
        words = words[1:]
    for count in range(len(words), 0, -1):
        if (path := _named().get("".join(words[:count]))) is not None:
            return path.stem
    return None


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


def _from_path(path: Path) -> Device:
    return _from_python_file(path) if path.suffix == ".py" else _from_sheet(path)


def load_sheet(name_or_path: str) -> Device:
    """As ``load_device``, but of a data sheet nothing beyond what it says: no costs.

    Raises:
        UnknownNameError, InputError: as ``load_device``.
    """
    path = _named().get(_plain(name_or_path), Path(name_or_path))
    return _sheet(path) if path.suffix == ".toml" else load_device(name_or_path)


def _from_sheet(path: Path) -> Device:
    device = _sheet(path)
    return _with_pim(device) if device.pim else _with_measured(_with_calibration(device))


def _sheet(path: Path) -> Device:
    table = read_toml(path)
    table.pop("aliases", None)
    table.setdefault("name", path.stem)
    for key, cls in _PARTS.items():
        if key in table:
            if not isinstance(table[key], dict):
                raise InputError(f"{path.name}: {key} must be a table, not {table[key]!r}")
            table[key] = build(cls, table[key], f"{path.name} [{key}]")
    return build(Device, table, path.name)


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
    except Exception as error:  # somebody else's code
        raise InputError(f"device {path!r} cannot be loaded: {_said(error)}") from error
    return _trusted(made, path)


def _from_python_file(path: Path) -> Device:
    name = f"{__name__}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look names up
    try:
        spec.loader.exec_module(module)
        made = getattr(module, _ATTRIBUTE)
    except Exception as error:  # somebody else's code
        raise InputError(f"device file {path} cannot be loaded: {_said(error)}") from error
    return _trusted(made, str(path))


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ServesimError) else f"{type(error).__name__}: {error}"


def _trusted(made: Any, path: str) -> Device:
    """The device that ``made`` is or returns, once the contract of devices was tried on it."""
    from servesim.hardware.contract import ContractError, check_quickly

    if callable(made) and not isinstance(made, Device):
        try:
            made = made()
        except Exception as error:  # somebody else's code
            raise InputError(f"device {path!r} cannot be made: {_said(error)}") from error
    if not isinstance(made, Device):
        raise InputError(f"device {path!r} is a {type(made).__name__}, not a Device")
    try:
        check_quickly(made)
    except ContractError as error:
        raise InputError(f"device {path!r} breaks the contract of devices: {error}") from error
    return made


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _files() -> Iterator[Path]:
    return (path for path in sorted(DEVICES.iterdir()) if path.suffix in _SUFFIXES)


@cache
def _named() -> Mapping[str, Path]:
    """Device file by plain name and plain alias.

    Raises:
        InputError: two device files claim one name.
    """
    named: dict[str, Path] = {}
    for path in _files():
        aliases = read_toml(path).get("aliases", ()) if path.suffix == ".toml" else ()
        for name in (path.stem, *aliases):
            if (owner := named.setdefault(_plain(name), path)) != path:
                raise InputError(f"{path.name}: the name {name!r} belongs to {owner.name}")
    return named
