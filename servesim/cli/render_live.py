"""Recorded live runs beside their simulation, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from servesim.cli.render import columns, percent
from servesim.validation.live.compare import LiveComparison, LoadComparison
from servesim.validation.live.pace import NOTICEABLE
from servesim.validation.live.spread import LATENCIES, Repeated


def live_tables(comparison: LiveComparison) -> tuple[tuple[str, Table], ...]:
    """Titles and tables: steps, decisions, whole runs."""
    return (
        ("Steps, each predicted alone", _steps(comparison)),
        ("Decisions at recorded moments, times with recorded step lengths", _replays(comparison)),
        ("Whole runs: error of means, and spread of the measurement", _runs(comparison)),
    )


def live_remarks(comparison: LiveComparison) -> Iterator[str]:
    """What no table says: first differences, and models that could not be simulated."""
    for load in comparison.loads:
        for number, decisions in enumerate(load.decisions, 1):
            if decisions.first_difference is not None:
                yield f"{load.model} {load.load} {number}: {decisions.first_difference}"
    for model, slower in comparison.slower.items():
        if slower > NOTICEABLE:
            yield f"{model}: the machine was {percent(slower)} slower than at its fastest"
    for model, why in comparison.failures.items():
        yield f"{model} was not simulated: {why}"


def _steps(comparison: LiveComparison) -> Table:
    table = columns("", "steps of", "steps", "median error", "bias", "operators", "host", text=2)
    for model, errors in comparison.steps.items():
        for row, (kind, one) in enumerate(errors.items(), 1):
            table.add_row(
                model if row == 1 else "",
                kind,
                f"{one.steps:,}",
                percent(one.median),
                _signed(one.bias),
                _signed(one.model_bias),
                percent(one.host_share),
                end_section=row == len(errors),
            )
    return table


def _replays(comparison: LiveComparison) -> Table:
    table = columns("", "load", "steps", "runs decided alike", "requests on time", text=2)
    for load in comparison.loads:
        alike = sum(one.first_difference is None for one in load.decisions)
        replays = [one for one in load.replays if one is not None]
        within, requests = sum(r.within for r in replays), sum(r.requests for r in replays)
        steps = sum(one.steps for one in load.decisions)
        table.add_row(
            load.model,
            load.load,
            f"{steps:,}",
            f"{alike} of {len(load.decisions)}",
            f"{within} of {requests}" if replays else "-",
        )
    return table


def _runs(comparison: LiveComparison) -> Table:
    table = columns("", "load", *(name.upper() for name in LATENCIES), "tokens/s", text=2)
    for load in comparison.loads:
        table.add_row(_name(load), load.load, *_means(load), _with_spread(load.throughput))
    return table


def _name(load: LoadComparison) -> str:
    return f"{load.model}, held out" if load.held_out else load.model


def _means(load: LoadComparison) -> list[str]:
    return [_with_spread(load.latencies[name]["mean"]) for name in LATENCIES]


def _with_spread(value: Repeated) -> str:
    return f"{_signed(value.error)} ±{percent(value.spread / 2)}"


def _signed(error: float) -> str:
    return f"{100 * error:+.1f}%"
