"""GuideLLM's reports (``benchmarks.json``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.validation.client_run import MALFORMED, ClientLog, Failed, one_line, the_part
from servesim.validation.json_files import find_document, json_documents
from servesim.validation.measured import MeasuredRequest, MeasuredRun
from servesim.validation.readers import READERS

_FILE = "benchmarks.json"
#: A request's times under the names of GuideLLM 0.4 on, of the versions before, and of 0.3.
_START = ("request_start", "start_time")
_FIRST = ("first_token_iteration", "first_iteration", "first_token_time")
_LAST = ("last_token_iteration", "last_iteration", "last_token_time", "request_end", "end_time")


@READERS.register("guidellm")
@dataclass(frozen=True)
class GuideLlm:
    """A report file, or a folder with ``benchmarks.json``.

    A report has several ``benchmarks`` (of a sweep, one a rate), each with its requests by status:
    ``successful``, ``incomplete``, ``errored``. Times are Unix seconds. Prompts' text is not used,
    so no prefix is shared.

    Attributes:
        part: which of several benchmarks, counted from 1.
    """

    part: int | None = None

    def matches(self, path: Path) -> bool:
        """A report of benchmarks that list their requests."""
        found = find_document(_file(path))
        benchmarks = (found or {}).get("benchmarks")
        if not isinstance(benchmarks, list) or not benchmarks:
            return False
        return isinstance(benchmarks[0], dict) and isinstance(benchmarks[0].get("requests"), dict)

    def read(self, path: Path) -> MeasuredRun:
        """The run, or the one of several, in ``path``."""
        path = _file(path)
        report = json_documents(path)[0]
        try:
            benchmarks = report["benchmarks"]
            benchmark = the_part(benchmarks, self.part, str(path), map(_kind, benchmarks))
            _require_whole(benchmark)
            outcomes = list(_outcomes(benchmark["requests"]))
            model = _model(report, benchmark)
        except MALFORMED as error:
            raise InputError(f"{path}: no report of GuideLLM: {error!r}") from error
        return ClientLog(path.stem, model, "GuideLLM", outcomes).run()


def _file(path: Path) -> Path:
    return path / _FILE if path.is_dir() else path


def _strategy(benchmark: Mapping[str, Any]) -> Mapping[str, Any]:
    """How requests were sent, where the versions keep it."""
    for section in ("config", "scheduler", "args"):
        found = (benchmark.get(section) or {}).get("strategy")
        if isinstance(found, dict):
            return found
    return {}


def _kind(benchmark: Mapping[str, Any]) -> str:
    strategy = _strategy(benchmark)
    level = next((strategy[k] for k in ("rate", "streams") if strategy.get(k) is not None), "")
    return f"{strategy.get('type_', 'benchmark')} {level}".strip()


def _require_whole(benchmark: Mapping[str, Any]) -> None:
    """Raise if the report keeps a sample only: what it leaves out was load all the same."""
    totals = (benchmark.get("metrics") or {}).get("request_totals") or {}
    listed = len(benchmark["requests"].get("successful") or ())
    if listed < (totals.get("successful") or 0):
        raise InputError(
            f"the report lists {listed} of {totals['successful']} requests: benchmark without "
            "sampling requests"
        )


def _model(report: Mapping[str, Any], benchmark: Mapping[str, Any]) -> str:
    backend = (benchmark.get("config") or {}).get("backend") or {}
    worker, args = benchmark.get("worker") or {}, report.get("args") or {}
    named = backend.get("model"), args.get("model"), worker.get("backend_model")
    return next((name for name in named if isinstance(name, str)), "")


def _outcomes(requests: Mapping[str, Any]) -> Iterator[MeasuredRequest | Failed]:
    number = 0
    for status in ("successful", "incomplete", "errored"):
        for row in requests.get(status) or ():
            yield _request(number, row) if status == "successful" else _failed(number, row, status)
            number += 1


def _request(number: int, row: Mapping[str, Any]) -> MeasuredRequest | Failed:
    times = _timings(row)
    start, first, last = (_first_of(times, names) for names in (_START, _FIRST, _LAST))
    if start is None or first is None or last is None:
        return Failed(number, "no time of a first token: answers were not streamed")
    prompt, output = row.get("prompt_tokens"), row.get("output_tokens")
    if not prompt or not output:
        return Failed(number, "no count of its tokens")
    return MeasuredRequest(number, start, first, last, int(prompt), int(output))


def _failed(number: int, row: Mapping[str, Any], status: str) -> Failed:
    text = (row.get("info") or row.get("scheduler_info") or row).get("error")
    return Failed(number, f"{status}: {one_line(text)}" if text else status)


def _timings(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if "info" in row:
        return dict(row["info"]["timings"])
    if "scheduler_info" in row:
        return dict(row["scheduler_info"]["request_timings"])
    return row


def _first_of(times: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    return next((float(times[name]) for name in names if times.get(name) is not None), None)
