"""BurstGPT's traces: times and lengths of requests to ChatGPT and GPT-4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from servesim.errors import InputError
from servesim.runtime.request import RequestSpec
from servesim.runtime.trace_file import Clock, Parser, RequestFile, Row, csv_rows, seconds, whole
from servesim.runtime.workloads import WORKLOADS

_COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")
#: Columns of later releases, which nothing here depends on.
_LATER = ("Session ID", "Elapsed time")
_LOGS = {"conversation": "Conversation log", "api": "API log"}


@WORKLOADS.register("burstgpt")
@dataclass(frozen=True, kw_only=True)
class BurstGpt(RequestFile):
    """CSV with times in seconds and lengths; no prefixes.

    Requests that failed, with 0 response tokens, are left out.

    Attributes:
        model: keep the requests to this model (``ChatGPT`` or ``GPT-4``); all when None.
        log: keep those of people or those of programs; all when None.
    """

    model: str | None = None
    log: Literal["conversation", "api"] | None = None

    def _rows(self) -> Iterator[tuple[int, Row]]:
        for number, row in csv_rows(Path(self.path), _COLUMNS, _LATER):
            if row["Response tokens"] != 0 and self._wanted(row):
                yield number, row

    def _wanted(self, row: Row) -> bool:
        right_log = self.log is None or row["Log Type"] == _LOGS[self.log]
        return right_log and (self.model is None or row["Model"] == self.model)

    def _parser(self) -> Parser[RequestSpec]:
        clock = Clock()

        def parse(row: Row, place: int) -> RequestSpec:
            prompt, output = whole(row, "Request tokens"), whole(row, "Response tokens")
            if prompt + output != whole(row, "Total tokens"):
                raise InputError(f"Total tokens {row['Total tokens']} is not {prompt} + {output}")
            return RequestSpec(
                id=place,
                arrival_s=clock.seconds(seconds(row, "Timestamp")),
                prompt_tokens=prompt,
                output_tokens=output,
            )

        return parse
