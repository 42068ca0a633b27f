"""The errors servesim raises on purpose: one clear line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ServesimError(Exception):
    """Base of every error a user can cause; the command line prints it and exits with 2."""


class InputError(ServesimError):
    """A value the user gave cannot be used; the message names the value and what would do."""


def reason(error: Exception) -> str:
    """Why a file cannot be read, in one line, without its path: the message begins with that."""
    said = error.strerror if isinstance(error, OSError) else None
    return said or str(error).partition("\n")[0]


class UnknownNameError(InputError):
    """A name that is not among the known ones.

    The message lists the known names (the nearest of them, when there are very many) and proposes
    the nearest match.
    """

    #: Most names that a message lists.
    most_listed = 48

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        near = difflib.get_close_matches(name.lower(), [k.lower() for k in self.known], n=1)
        guess = next((k for k in self.known if near and k.lower() == near[0]), None)
        hint = f"; did you mean {guess!r}?" if guess else ""
        super().__init__(f"unknown {kind} {name!r}{hint} (known: {self._listed()})")

    def _listed(self) -> str:
        if len(self.known) <= self.most_listed:
            return ", ".join(self.known) or "none"
        near = difflib.get_close_matches(self.name, self.known, n=6, cutoff=0.0)
        return f"{', '.join(near)} and {len(self.known) - len(near)} more"


class UnsupportedError(ServesimError):
    """A combination servesim understands but cannot simulate; the message says why."""


class CapacityError(ServesimError):
    """Something does not fit the memory it must live in; the message gives both sizes."""
