"""Filling frozen dataclasses from tables: known keys only, each value of its field's type."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from servesim.errors import InputError, UnknownNameError

T = TypeVar("T")

#: A known name, or the path of a file or folder that stands for one.
NameOrPath = Annotated[str, "name or path"]

#: What the files end with that servesim reads where a name could stand.
_FILES = (".toml", ".json")


def checked_table(cls: type, table: Mapping[str, Any], section: str, base: Path) -> dict[str, Any]:
    """``table`` with every value as the field of dataclass ``cls`` that it is for wants it.

    Args:
        section: how messages call the table, e.g. ``[engine]``.
        base: the folder that relative paths in ``table`` are relative to.

    Raises:
        UnknownNameError: a key is no field.
        InputError: a value has the wrong type.
    """
    hints = field_types(cls)
    for key in table:
        if key not in hints:
            raise UnknownNameError(f"key in {section}", key, hints)
    return {k: checked(v, hints[k], f"{section} {k}", base) for k, v in table.items()}


def replaced(spec: T, values: Mapping[str, Any], section: str) -> T:
    """The frozen dataclass ``spec`` with ``values``, which ``checked_table`` passed, in it.

    Raises:
        InputError: the dataclass refuses a value.
    """
    try:
        return dataclasses.replace(spec, **values)  # type: ignore[type-var]
    except ValueError as error:
        raise InputError(f"{section}: {error}") from error


def field_types(cls: type) -> dict[str, Any]:
    """Name and type of every field that can be given, in order.

    Raises:
        InputError: ``cls``, maybe from outside the tree, is no dataclass.
    """
    if not dataclasses.is_dataclass(cls):
        raise InputError(f"{cls.__name__} has no options: it must be a dataclass")
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def checked(value: Any, hint: Any, where: str, base: Path) -> Any:
    """``value`` as ``hint`` wants it: an int passes for a float, a text for a path.

    Raises:
        InputError: it is of another type; the message starts with ``where``.
    """
    options = alternatives(hint)
    for option in options:
        if (found := _as(value, option, base)) is not _NOT:
            return found
    raise InputError(f"{where} must be {_describe(options)}, not {value!r}")


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union without None; a type that is no union stands alone."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return tuple(a for a in typing.get_args(hint) if a is not type(None))
    return (hint,)


_NOT = object()


def _as(value: Any, hint: Any, base: Path) -> Any:  # noqa: PLR0911
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value if value in typing.get_args(hint) else _NOT
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(value)
    if hint == NameOrPath and isinstance(value, str):
        return _located(value, base)
    if hint is Path and isinstance(value, str | Path):
        return base / Path(value).expanduser()
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        return _NOT
    if origin is Mapping and isinstance(value, Mapping):
        return _with_path(value, base)
    plain = origin or hint
    return value if plain is Any or (isinstance(plain, type) and isinstance(value, plain)) else _NOT


def _with_path(table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """A plugin's options inside another's: their ``path`` is a path."""
    found = dict(table)
    if isinstance(path := found.get("path"), str):
        found["path"] = base / Path(path).expanduser()
    return found


def _located(text: str, base: Path) -> str:
    """``text``, or where it lies if it looks like a path; as to Hugging Face, a folder wins."""
    path = Path(text).expanduser()
    looks = text.startswith((".", "~")) or path.suffix in _FILES
    return str(base / path) if looks or ("/" in text and (base / path).exists()) else text


_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    Path: "a path",
    NameOrPath: "a name or a path",
    Mapping: "a table",
    tuple: "a list",
}


def _describe(options: tuple[Any, ...]) -> str:
    words = []
    for option in options:
        if typing.get_origin(option) is Literal:
            words.append("one of " + ", ".join(map(repr, typing.get_args(option))))
        else:
            kind = typing.get_origin(option)
            words.append(_WORDS.get(option) or _WORDS.get(kind) or str(option))
    return " or ".join(words)
