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


def read_run(path: str | Path, form: str | None = None) -> MeasuredRun:
    """The measured run at ``path``, in format ``form`` or the one it looks like.

    Raises:
        InputError: there is nothing there, or no reader knows it.
        UnknownNameError: no such format.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"measured run {str(path)!r} does not exist")
    if form is not None:
        return READERS.build(form).read(path)
    for name in READERS.names():
        reader = READERS.build(name)
        if reader.matches(path):
            return reader.read(path)
    known = ", ".join(READERS.names())
    raise InputError(f"{str(path)!r} is no measured run of a known format ({known})")
