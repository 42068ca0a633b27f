"""``servesim validate run DIR``: a measured run beside its simulation."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from servesim.cli.flags import add_flags, given, json_table
from servesim.runtime.config import EngineConfig
from servesim.validation.compare import STATISTICS, Compared
from servesim.validation.readers import read_run
from servesim.validation.run import RunOptions, RunResult, simulate_run

HELP = "simulate a measured serving run and compare its latencies"

_TITLES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", metavar="RUN", help="a measured run: folder or file")
    parser.add_argument("--format", metavar="F", help="the run's format, if it is not obvious")
    parser.add_argument("--part", type=int, metavar="N", help="which of several runs in a file")
    parser.add_argument("--model", metavar="M", help="id, folder or config (default: the run's)")
    parser.add_argument("--hardware", metavar="H", help="device name or file (default: the run's)")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="measured layers or kernels")
    parser.add_argument("--collectives", type=Path, metavar="PATH", help="measured collectives")
    parser.add_argument(
        "--link", type=json_table, metavar="JSON", help="bandwidth and latency between the devices"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_flags(parser, EngineConfig, "engine", "engine options, in place of the run's")


def run(args: argparse.Namespace) -> int:
    """Simulate the run and print measured, simulated and error."""
    measured = read_run(args.path, args.format, args.part)
    options = RunOptions(
        hardware=args.hardware,
        model=args.model,
        profile=args.profile,
        collectives=args.collectives,
        link=args.link,
        engine=given(args).get("engine"),
    )
    result = simulate_run(measured, options)
    if args.json:
        json.dump(_as_json(result), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(result)
    return 0


def _as_json(result: RunResult) -> dict[str, Any]:
    comparison = result.comparison
    shares = _source_shares(result)
    return {
        "run": result.run.name,
        "hardware": result.served.device.name,
        "requests": len(result.run.requests),
        "notes": list(result.run.notes),
        "metrics": {
            latency: {name: compared.as_dict() for name, compared in statistics.items()}
            for latency, statistics in comparison.metrics.items()
        },
        "per_request_mape": dict(comparison.per_request_mape),
        "makespan": comparison.makespan.as_dict(),
        "sources": shares,
        "wall_s": result.wall_s,
    }


def _source_shares(result: RunResult) -> dict[str, float]:
    seconds = result.served.step_model.source_seconds()
    total = sum(seconds.values()) or 1.0
    return {source.value: s / total for source, s in seconds.items()}


def _print(result: RunResult) -> None:
    from servesim.cli.render import columns, heading, indented, make_console, number, percent

    console = make_console()
    run_, comparison = result.run, result.comparison
    heading(console, run_.name, f"{result.served.graph.model} on {result.served.device.name}")
    table = columns("", "", *STATISTICS, text=2)
    for latency, statistics in comparison.metrics.items():
        scale, unit = (1e3, "ms") if statistics["mean"].measured < 1 else (1.0, "s")
        rows = {
            "measured": [number(c.measured * scale) for c in statistics.values()],
            "simulated": [number(c.simulated * scale) for c in statistics.values()],
            "error": [_signed(c) for c in statistics.values()],
        }
        for index, (name, cells) in enumerate(rows.items()):
            title = f"{_TITLES[latency]} {unit}" if index == 0 else ""
            table.add_row(title, name, *cells, end_section=index == 2)
    indented(console, table)
    each = ", ".join(
        f"{_TITLES[name]} {percent(value)}" for name, value in comparison.per_request_mape.items()
    )
    span = comparison.makespan
    sources = ", ".join(f"{percent(v)} {k}" for k, v in _source_shares(result).items() if v)
    console.print(f"\n  per request, mean absolute error: {each}")
    console.print(
        f"  makespan: measured {span.measured:.2f} s, simulated {span.simulated:.2f} s "
        f"({_signed(span)})"
    )
    console.print(f"  {len(run_.requests):,} requests simulated in {result.wall_s:.2f} s")
    console.print(f"  step times: {sources}")
    for note in run_.notes:
        console.print(f"  {note}", markup=False)


def _signed(compared: Compared) -> str:
    return f"{100 * compared.error:+.2f}%"
