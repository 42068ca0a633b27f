"""Sessions from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.runtime.sessions import Session, SessionSource, Turn
from servesim.runtime.trace_file import Parser, Row, TraceFile, json_rows, seconds, whole, wholes
from servesim.runtime.workloads import WORKLOADS

_SESSION = tuple(field.name for field in fields(Session))
_TURN = tuple(field.name for field in fields(Turn))


@WORKLOADS.register("sessions")
@dataclass(frozen=True, kw_only=True)
class Sessions(TraceFile[Session]):
    """JSON lines: ``{"arrival_s": 0, "system_tokens": 900, "turns": [{...}, ...]}``.

    A turn has ``new_tokens`` and ``output_tokens``, and may have ``continues`` (a turn's number
    from 0; the one before by default, null for a fresh context), ``after`` (numbers of turns; the
    one it continues by default) and ``delay_s``.
    """

    def source(self) -> SessionSource:
        """The requests as answers allow them."""
        return SessionSource(self.entries())

    def _rows(self) -> Iterator[tuple[int, Row]]:
        return json_rows(Path(self.path), _SESSION)

    def _parser(self) -> Parser[Session]:
        return _session


def _session(row: Row, place: int) -> Session:
    turns = row.get("turns", [])
    if not isinstance(turns, list):
        raise InputError(f"turns must be a list, not {turns!r}")
    return Session(
        arrival_s=seconds(row, "arrival_s"),
        turns=tuple(_turn(turn, number) for number, turn in enumerate(turns)),
        system_tokens=whole(row, "system_tokens", 0),
        system=whole(row, "system", 0),
    )


def _turn(given: Any, number: int) -> Turn:
    if not isinstance(given, Mapping):
        raise InputError(f"turn {number} must be an object, not {given!r}")
    for name in given:
        if name not in _TURN:
            raise UnknownNameError(f"field of turn {number}:", name, _TURN)
    row = {"continues": number - 1 if number else None, "delay_s": 0.0, **given}
    continues = None if row["continues"] is None else whole(row, "continues")
    return Turn(
        new_tokens=whole(row, "new_tokens"),
        output_tokens=whole(row, "output_tokens"),
        continues=continues,
        after=wholes(row, "after") if "after" in row else _before(continues),
        delay_s=seconds(row, "delay_s"),
    )


def _before(continues: int | None) -> tuple[int, ...]:
    return () if continues is None else (continues,)
