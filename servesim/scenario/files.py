"""Result files: ``requests.csv``, ``steps.csv``, ``summary.json``, ``tiers.csv``; all or none.

Equal scenarios give equal bytes: nothing in them depends on the machine or the time of day.
"""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.runtime.records import TIMES, RequestRecords, Status
from servesim.runtime.steps import MEANS, SUMS
from servesim.runtime.tiers.store import COLUMNS
from servesim.scenario.run import Result
from servesim.scenario.summary import summarise

REQUEST_COLUMNS = (
    "id", "instance", "prefill_instance", "status", "prompt_tokens", "output_tokens",
    "cached_tokens", "recalled_tokens", "preemptions", "retries",
    *TIMES, "ttft_s", "tpot_s", "e2e_s", "energy_j", "unfinished_because",
)  # fmt: skip
TIER_COLUMNS = ("tier", "pool", *COLUMNS)
STEP_COLUMNS = ("instance", "start_s", "end_s", *SUMS, *MEANS)


def require_writable(folder: Path) -> None:
    """Find out before a run whether its results can go to ``folder``; changes nothing.

    Raises:
        InputError: it is a file, or lies below one, or nobody may write there.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise InputError(f"cannot write to {folder}: {place} is not a folder")
    if not os.access(place, os.W_OK):
        raise InputError(f"cannot write to {folder}: no permission to write in {place}")


def require_writable_file(path: Path) -> None:
    """Find out before a run whether ``path`` can be written; changes nothing.

    Raises:
        InputError: it is a folder, or cannot lie where it should.
    """
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    require_writable(path.parent)


def write_results(result: Result, folder: Path) -> tuple[Path, ...]:
    """Write all result files to ``folder``; a file is replaced only when all are complete.

    Returns:
        The paths written.

    Raises:
        InputError: the folder cannot be written to.
    """
    require_writable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as name:
            part = Path(name)
            _write_csv(part / "requests.csv", REQUEST_COLUMNS, _request_rows(result))
            _write_csv(part / "steps.csv", STEP_COLUMNS, _step_rows(result))
            if result.records.tiers:
                _write_csv(part / "tiers.csv", TIER_COLUMNS, _tier_rows(result))
            text = json.dumps(summarise(result), indent=1)
            (part / "summary.json").write_text(text + "\n", encoding="utf-8")
            if not result.records.tiers:
                (folder / "tiers.csv").unlink(missing_ok=True)  # an earlier run's
            return tuple(file.replace(folder / file.name) for file in sorted(part.iterdir()))
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error


def write_text(pieces: Iterable[str], path: Path) -> Path:
    """Write one file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    part = path.with_name(f".unfinished-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
        return part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterator[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _request_rows(result: Result) -> Iterator[list[Any]]:
    requests = result.records.requests
    names = ["", *(one.name for one in result.records.instances)]  # the first of -1: none
    drawn = iter(result.energy.request_joules if result.energy else ())
    for row in range(len(requests)):
        finished = requests.status[row] == Status.FINISHED
        times = [getattr(requests, name)[row] for name in TIMES]
        yield [
            requests.id[row],
            names[requests.instance[row] + 1],
            names[requests.prefill_instance[row] + 1],
            Status(requests.status[row]).name.lower(),
            requests.prompt_tokens[row],
            requests.output_tokens[row],
            requests.cached_tokens[row],
            requests.recalled_tokens[row],
            requests.preemptions[row],
            requests.retries[row],
            *map(_seconds, (*times, *_latencies(requests, row))),
            _number(next(drawn)) if finished and result.energy else "",
            requests.reasons.get(row, ""),
        ]


def _latencies(requests: RequestRecords, row: int) -> tuple[float, float, float]:
    """TTFT, TPOT and E2E; nan where there is none."""
    arrival, first = requests.arrival_s[row], requests.first_token_s[row]
    last, gaps = requests.finished_s[row], requests.output_tokens[row] - 1
    return first - arrival, (last - first) / gaps if gaps else math.nan, last - arrival


def _step_rows(result: Result) -> Iterator[list[Any]]:
    for one in result.records.instances:
        steps = one.steps
        columns = [getattr(steps, name) for name in STEP_COLUMNS[1:]]
        for start, end, *rest in zip(*columns, strict=True):
            yield [one.name, _seconds(start), _seconds(end), *map(_number, rest)]


def _tier_rows(result: Result) -> Iterator[list[Any]]:
    for tier in result.records.tiers:
        columns = [tier.column(name).tolist() for name in COLUMNS]
        for time, *rest in zip(*columns, strict=True):
            yield [tier.name, tier.pool, _seconds(time), *map(_number, rest)]


def _seconds(value: float) -> str:
    """To the nanosecond; empty for nan."""
    return "" if math.isnan(value) else f"{value:.9f}"


def _number(value: float) -> str:
    """Whole numbers without a point."""
    return f"{value:.10g}"
