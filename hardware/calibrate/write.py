"""The ``[calibration]`` part of a device file: whole, or the tables of some forms."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from servesim.hardware.calibration_entry import LIKE, NOTES, completed

_START = "# Fitted by `servesim calibrate`"
COLLECTIVE = "collective"
#: Table of errors by family.
HELD_OUT = "held_out"
#: Devices whose coefficients serve where there are none.
BORROW = "borrow"

Tables = Mapping[str, Mapping[str, Any]]


def calibration_text(tables: Tables, head: Mapping[str, Any], errors: Tables | None = None) -> str:
    """TOML of ``[calibration]``: ``head`` values, ``errors`` by family, a table for each form."""
    lines = [f"{_START} on {head.get('date', 'an unknown date')}."]
    lines += ["[calibration]", *(f"{k} = {_value(v)}" for k, v in head.items())]
    for form, table in (({HELD_OUT: errors} if errors else {}) | dict(tables)).items():
        lines += ["", f"[calibration.{form}]"]
        lines += [f"{key} = {_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def written(path: Path) -> dict[str, Any]:
    """``[calibration]`` of the device file at ``path``; empty where it has none."""
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("calibration", {})
    return found


def by_family(tables: Tables) -> dict[str, dict[str, Any]]:
    """``tables`` of forms as a device file nests them, numbers as written there."""
    nested = tomllib.loads(calibration_text(tables, {}))["calibration"]
    return dict(nested)


def other_tables(
    families: Mapping[str, Any], only: Sequence[str], fitted: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Tables of a ``[calibration]`` whose forms start with none of ``only``.

    Those like a form that is ``fitted`` anew, or no longer there, are written out in full: their
    own coefficients do not change. Collectives are not among them.
    """
    others: dict[str, dict[str, Any]] = {}
    for family, tables in families.items():
        if not isinstance(tables, dict) or family in (BORROW, COLLECTIVE, HELD_OUT):
            continue
        for key, table in tables.items():
            if (form := f"{family}.{key}").startswith(tuple(only)):
                continue
            head = f"{family}.{table[LIKE]}" if LIKE in table else form
            leaves = head in fitted or head.startswith(tuple(only))
            others[form] = _in_full(tables, key, form) if leaves else table
    return others


def _in_full(tables: Tables, key: str, form: str) -> dict[str, Any]:
    """``tables[key]`` with all its coefficients, after its notes."""
    whole = completed(tables, key, form)
    return dict(sorted(whole.items(), key=lambda item: item[0] not in NOTES))


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
    return f"{value:.5g}"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else f'"{key}"'
