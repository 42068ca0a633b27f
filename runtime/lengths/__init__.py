"""Distributions of prompt and output lengths, one file each.

A length is given as a number, as text (``"lognormal:mean=900,sigma=0.8"``) or as a table
(``{kind = "lognormal", mean = 900, sigma = 0.8}``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from servesim.errors import InputError
from servesim.registry import Registry

Tokens = npt.NDArray[np.int64]
LengthOption = int | str | Mapping[str, Any]


class Lengths(Protocol):
    """Lengths in tokens, each at least 1."""

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """``count`` lengths."""


#: Nobody has more tokens or requests than that.
MOST = 10**9

LENGTHS: Registry[Lengths] = Registry("length distribution", "servesim.runtime.lengths")


def lengths(option: LengthOption) -> Lengths:
    """The distribution that ``option`` describes.

    Raises:
        UnknownNameError: no such distribution or parameter.
        InputError: a parameter is missing or cannot be used.
    """
    if isinstance(option, int):
        return LENGTHS.build("fixed", {"tokens": option})
    if isinstance(option, str):
        return LENGTHS.build(*_parse(option))
    table = dict(option)
    kind = table.pop("kind", None)
    if kind is None:
        raise InputError(
            f"lengths {dict(option)} need a kind (known: {', '.join(LENGTHS.names())})"
        )
    return LENGTHS.build(kind, table)


def require_positive(name: str, value: float) -> None:
    """Refuse a parameter that is not above zero.

    Raises:
        InputError: it is not.
    """
    if not value > 0:
        raise InputError(f"{name} must be above 0, not {value}")


def require_count(name: str, value: float) -> None:
    """Refuse a number of tokens, or of requests, that is not above zero or above a billion.

    Raises:
        InputError: it is.
    """
    require_positive(name, value)
    if value > MOST:
        raise InputError(f"{name} must be at most {MOST}, not {value}")


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    """``"kind:name=value,..."``, or a plain number."""
    if text.strip().isdigit():
        return "fixed", {"tokens": int(text)}
    kind, _, rest = text.partition(":")
    options = {}
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"lengths {text!r}: {part!r} is not name=value")
        options[name.strip()] = _number_or_text(value.strip())
    return kind.strip(), options


def _number_or_text(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
