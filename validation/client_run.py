"""Runs that a load client measured: what failed is left out and said, times start at zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from servesim.errors import InputError
from servesim.validation.measured import MeasuredRequest, MeasuredRun

#: What reading a client's file raises where something in it is of another shape or type.
MALFORMED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
#: Tokens that no request has more of.
_MOST_TOKENS = 10**9
#: Requests that a note names.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that is left out, and why."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class ClientLog:
    """What a load client says of a run; it knows neither the hardware nor the engine's options.

    Attributes:
        name: of the run.
        model: as the client called it.
        source: the client.
        outcomes: of every request, in any order, its times by any clock of seconds.
        notes: what else a reader of the comparison must know.
    """

    name: str
    model: str
    source: str
    outcomes: Sequence[MeasuredRequest | Failed]
    notes: tuple[str, ...] = ()

    def run(self) -> MeasuredRun:
        """The run in the one form, without the requests that failed.

        Raises:
            InputError: there are no requests, or all failed.
        """
        checked = [_checked(one) for one in self.outcomes]
        kept = [one for one in checked if isinstance(one, MeasuredRequest)]
        notes = (*failure_notes(checked), *self.notes)
        if not kept:
            raise InputError("; ".join((f"{self.name}: no finished requests", *notes)))
        start = min(one.arrival_s for one in kept)
        return MeasuredRun(
            name=self.name,
            hardware="",
            model=self.model,
            hf_config=None,
            engine={},
            requests=tuple(sorted((_since(start, r) for r in kept), key=_by_arrival)),
            clock="server",
            source=self.source,
            notes=notes,
        )


def failure_notes(outcomes: Sequence[MeasuredRequest | Failed]) -> tuple[str, ...]:
    """One note for each reason that requests were left out for."""
    reasons: dict[str, list[int]] = {}
    for one in outcomes:
        if isinstance(one, Failed):
            reasons.setdefault(one.reason, []).append(one.id)
    return tuple(
        f"{len(ids)} of {len(outcomes)} requests left out ({reason}): {_listed(ids)}"
        for reason, ids in reasons.items()
    )


def the_part(parts: Sequence[Any], part: int | None, what: str, names: Iterable[str]) -> Any:
    """The one of several results in a file that is asked for, counted from 1.

    Raises:
        InputError: none was asked for though there are several, or there is no such.
    """
    if part is None and len(parts) == 1:
        return parts[0]
    if part is None or not 1 <= part <= len(parts):
        listed = ", ".join(f"{number}: {name}" for number, name in enumerate(names, 1))
        asked = "say which with --part" if part is None else f"no part {part}"
        raise InputError(f"{what} holds {len(parts)} results, {asked} ({listed})")
    return parts[part - 1]


def one_line(text: str) -> str:
    """The last line of an error with something in it: of a traceback, the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:120] if lines else "no reason given"


def _checked(one: MeasuredRequest | Failed) -> MeasuredRequest | Failed:
    """``one``, failed if its numbers are no request's."""
    if isinstance(one, Failed):
        return one
    if not (1 <= one.prompt_tokens <= _MOST_TOKENS and 1 <= one.output_tokens <= _MOST_TOKENS):
        return Failed(one.id, f"{one.prompt_tokens} prompt and {one.output_tokens} output tokens")
    if not one.arrival_s < one.first_token_s <= one.finished_s < math.inf:
        return Failed(one.id, "its times are out of order")
    return one


def _since(start: float, one: MeasuredRequest) -> MeasuredRequest:
    return replace(
        one,
        arrival_s=one.arrival_s - start,
        first_token_s=one.first_token_s - start,
        finished_s=one.finished_s - start,
    )


def _by_arrival(one: MeasuredRequest) -> tuple[float, int]:
    return one.arrival_s, one.id


def _listed(ids: Sequence[int]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(map(str, ids[:_NAMED])) + more
