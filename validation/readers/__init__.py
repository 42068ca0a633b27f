"""Readers of measured runs, one format a file; adding one means adding a file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from servesim.errors import InputError
from servesim.registry import Registry
from servesim.validation.measured import MeasuredRun


class Reader(Protocol):
    """Reads one format of measured runs."""

    def matches(self, path: Path) -> bool:
        """Whether ``path`` looks like this format."""

    def read(self, path: Path) -> MeasuredRun:
        """The run at ``path``.

        Raises:
            InputError: it cannot be read; the message names file and line or key.
        """


READERS: Registry[Reader] = Registry("run format", __name__)


def read_run(path: str | Path, form: str | None = None, part: int | None = None) -> MeasuredRun:
    """The measured run at ``path``, in format ``form`` or the one it looks like.

    Args:
        part: which of several runs a file holds, counted from 1.

    Raises:
        InputError: there is nothing there, no reader knows it or several do, or it holds several
            runs and ``part`` does not say which.
        UnknownNameError: no such format, or one whose files hold a single run.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"measured run {str(path)!r} does not exist")
    options = {} if part is None else {"part": part}
    return READERS.build(form or _format_of(path), options).read(path)


def _format_of(path: Path) -> str:
    """The one format that ``path`` looks like."""
    found = [name for name in READERS.names() if READERS.build(name).matches(path)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(READERS.names())
    if found:
        raise InputError(f"{str(path)!r} could be {' or '.join(found)}: say which with --format")
    raise InputError(f"{str(path)!r} is no measured run of a known format ({known})")
