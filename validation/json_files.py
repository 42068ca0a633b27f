"""Reading JSON and JSON lines, plain or gzipped; some readers look before they read."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from servesim.errors import InputError, reason


def read_json(path: Path) -> Any:
    """The JSON value in a file.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: it cannot be read, or is no JSON object.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object")
    return found


def json_documents(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file: one, or one a line.

    Raises:
        InputError: it cannot be read, or something in it is no JSON object.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    stat = path.stat()
    return _documents(path, stat.st_mtime_ns, stat.st_size)


def find_document(path: Path) -> dict[str, Any] | None:
    """The first JSON object in a file, or None: no such file, or none in it."""
    try:
        return json_documents(path)[0]
    except InputError:
        return None


@lru_cache(maxsize=2)
def _documents(path: Path, _modified: int, _size: int) -> list[dict[str, Any]]:
    """A file is looked at by several readers and then read by one: parsed once."""
    text = _text(path)
    try:
        found = [json.loads(text)]
    except ValueError:
        found = [_line(path, number, line) for number, line in enumerate(text.splitlines(), 1)]
        found = [one for one in found if one is not None]
    if not found or not all(isinstance(one, dict) for one in found):
        raise InputError(f"{path}: no JSON objects")
    return found


def _line(path: Path, number: int, line: str) -> Any:
    if not line.strip():
        return None
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}:{number}: not JSON: {error}") from error


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
