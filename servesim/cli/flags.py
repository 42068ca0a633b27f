"""Flags generated from the fields of a dataclass, under the same names."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from servesim.fields import alternatives, field_types

#: An entry of an ``Attributes:`` section: a name at the least indent, its text to the next one.
_ENTRY = re.compile(r"^(\w[\w, ]*): (.*)$")
#: What a letter behind a number stands for, in vLLM's spelling.
_UNITS = {"k": 10**3, "m": 10**6, "K": 2**10, "M": 2**20}


def add_flags(parser: argparse.ArgumentParser, cls: type, section: str, title: str) -> None:
    """A flag for each field of ``cls``: ``max_num_seqs`` becomes ``--max-num-seqs``.

    Booleans get a ``--no-...`` twin. A flag's help is the field's entry in the docstring of
    ``cls``; a flag that is not given leaves nothing behind (see ``given``).
    """
    group = parser.add_argument_group(title)
    texts = attribute_texts(cls)
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for name, hint in field_types(cls).items():
        options = _options_for(alternatives(hint))
        if options is None:
            continue
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"{section}.{name}",
            default=argparse.SUPPRESS,
            help=_help(texts.get(name, ""), defaults[name]),
            **options,
        )


def given(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Section to the values of the flags that were given (their dest is ``section.key``)."""
    tables: dict[str, dict[str, Any]] = {}
    for dest, value in vars(args).items():
        section, dot, key = dest.partition(".")
        if dot:
            tables.setdefault(section, {})[key] = value
    return tables


def attribute_texts(cls: type) -> dict[str, str]:
    """The ``Attributes:`` section of a docstring: name to text."""
    doc = inspect.getdoc(cls) or ""
    _, found, body = doc.partition("Attributes:\n")
    if not found:
        return {}
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(body.split("\n\n")[0]).splitlines():
        if not line.startswith(" ") and (entry := _ENTRY.match(line)):
            names = entry[1].split(", ")
            texts.update(dict.fromkeys(names, entry[2]))
        else:
            texts.update({name: f"{texts[name]} {line.strip()}" for name in names})
    return texts


def _help(text: str, default: Any) -> str:
    """A docstring's entry as help, with the default where there is one."""
    plain = text.removesuffix(".").replace("``", "").replace("%", "%%")
    known = default is not None and default is not dataclasses.MISSING
    return f"{plain} (default: {str(default).lower()})" if known else plain


def at_least(least: int) -> Callable[[str], int]:
    """The type of a flag that takes whole numbers from ``least`` on."""

    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, at least {least}, not {text!r}"
            )
        return value

    return whole


def size(text: str) -> int:
    """The type of a flag that takes sizes as vLLM does: 8192, 8k (thousands) or 8K (of 1024)."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "")
    try:
        return int(number) * _UNITS[unit] if unit else int(number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be a whole number, maybe with k, m (thousands) or K, M (of 1024), not {text!r}"
        ) from error


def above_zero(text: str) -> float:
    """The type of a flag that takes finite numbers above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def json_table(text: str) -> dict[str, Any]:
    """A table given as JSON, as vLLM takes it."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}: {text}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"not a JSON table: {text}")
    return found


def _options_for(types: tuple[Any, ...]) -> dict[str, Any] | None:
    """What argparse needs for a field of one of ``types``; None if no flag can express it."""
    first = types[0]
    if first is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(first) is Literal:
        return {"choices": typing.get_args(first), "metavar": "|".join(typing.get_args(first))}
    if typing.get_origin(first) is Mapping:
        return {"type": json_table, "metavar": "JSON"}
    if first in (int, float, str):
        return {
            "type": size if first is int else first,
            "metavar": {int: "N", float: "X", str: "NAME"}[first],
        }
    return None
