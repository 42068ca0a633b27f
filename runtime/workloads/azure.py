"""Azure's traces of LLM inference, 2023 and 2024: times and lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from servesim.errors import InputError
from servesim.runtime.request import RequestSpec
from servesim.runtime.trace_file import Clock, Parser, RequestFile, Row, csv_rows, whole
from servesim.runtime.workloads import WORKLOADS

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@WORKLOADS.register("azure")
@dataclass(frozen=True, kw_only=True)
class Azure(RequestFile):
    """CSV with ``TIMESTAMP``, ``ContextTokens`` and ``GeneratedTokens``; no prefixes.

    Times are dates, without a time zone (2023) or with one (2024), to 0.1 us. A request without a
    generated token, of which there are a few, is no request to simulate and is left out.
    """

    def _rows(self) -> Iterator[tuple[int, Row]]:
        rows = csv_rows(Path(self.path), _COLUMNS)
        return ((number, row) for number, row in rows if row["GeneratedTokens"] != 0)

    def _parser(self) -> Parser[RequestSpec]:
        clock = Clock()

        def parse(row: Row, place: int) -> RequestSpec:
            return RequestSpec(
                id=place,
                arrival_s=clock.seconds(_timestamp(str(row["TIMESTAMP"]))),
                prompt_tokens=whole(row, "ContextTokens"),
                output_tokens=whole(row, "GeneratedTokens"),
            )

        return parse


def _timestamp(text: str) -> float:
    """Seconds since 1970; a time without a zone is UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"TIMESTAMP must be a date and time, not {text!r}") from error
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
