"""The ``[calibration]`` part of a device file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_START = "# Fitted by `servesim calibrate`"


def calibration_text(tables: Mapping[str, Mapping[str, Any]], head: Mapping[str, str]) -> str:
    """TOML of ``[calibration]``: ``head`` values, then a table for each form."""
    lines = [f"{_START} on {head.get('date', 'an unknown date')}; see validation/kernels.md."]
    lines += ["[calibration]", *(f"{k} = {_value(v)}" for k, v in head.items())]
    for form, table in tables.items():
        lines += ["", f"[calibration.{form}]"]
        lines += [f"{key} = {_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def replace_calibration(path: Path, text: str) -> None:
    """Put ``text`` in place of what an earlier calibration wrote into the device file.

    Everything else stays as it is, calibrated collectives included.
    """
    kept: list[str] = []
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            inside = _is_ours(line.split("]", 1)[0].strip("[] "))
        if not inside and not line.startswith(_START):
            kept.append(line)
    sheet = "\n".join(kept).rstrip("\n")
    before, mark, after = sheet.partition("\n[calibration.")
    rest = f"{mark}{after}\n" if mark else ""
    path.write_text(f"{before.rstrip()}\n\n{text}{rest}", encoding="utf-8")


def _is_ours(table: str) -> bool:
    parts = table.split(".")
    return parts[0] == "calibration" and parts[1:2] != ["collective"]


def _value(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items())
        return "{" + inner + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e12):
        return str(int(value))
    return f"{value:.4g}"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else f'"{key}"'
