"""Options that do not go together."""

from __future__ import annotations

from collections.abc import Mapping

from servesim.errors import UnsupportedError


def refuse_together(what: str, others: Mapping[str, bool]) -> None:
    """Refuse ``what`` beside any of ``others``, options by name, that is used.

    Raises:
        UnsupportedError: one is.
    """
    for name, used in others.items():
        if used:
            raise UnsupportedError(f"{what} together with {name}")
