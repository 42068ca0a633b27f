"""The ``[calibration]`` part of a device file: whole, or the tables of some forms."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_START = "# Fitted by `servesim calibrate`"
COLLECTIVE = "collective"


def calibration_text(tables: Mapping[str, Mapping[str, Any]], head: Mapping[str, str]) -> str:
    """TOML of ``[calibration]``: ``head`` values, then a table for each form."""
    lines = [f"{_START} on {head.get('date', 'an unknown date')}."]
    lines += ["[calibration]", *(f"{k} = {_value(v)}" for k, v in head.items())]
    for form, table in tables.items():
        lines += ["", f"[calibration.{form}]"]
        lines += [f"{key} = {_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def other_tables(path: Path, only: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Tables of the device file at ``path`` whose forms start with none of ``only``.

    Collectives are not among them.
    """
    families = tomllib.loads(path.read_text(encoding="utf-8")).get("calibration", {})
    return {
        form: table
        for family, tables in families.items()
        if isinstance(tables, dict) and family != COLLECTIVE
        for key, table in tables.items()
        if not (form := f"{family}.{key}").startswith(tuple(only))
    }


def replace_calibration(path: Path, text: str, collectives: str = "") -> None:
    """Put ``text`` in place of what an earlier calibration wrote into the device file.

    Everything else stays as it is, as do calibrated collectives unless there are new ones.
    """
    sheet: list[str] = []
    kept: list[str] = []
    place = sheet
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            place = _place(line.split("]", 1)[0].strip("[] ").split("."), sheet, kept)
        if not line.startswith(_START):
            place.append(line)
    parts = ["\n".join(sheet), text, collectives or "\n".join(kept)]
    whole = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    path.write_text(whole + "\n", encoding="utf-8")


def _place(table: Sequence[str], sheet: list[str], kept: list[str]) -> list[str]:
    """Where the lines of ``table`` go: data sheet, collectives, or nowhere."""
    if table[0] != "calibration":
        return sheet
    return kept if table[1:2] == [COLLECTIVE] else []


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
