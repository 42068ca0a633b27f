"""``servesim compare A.toml B.toml ...``: scenarios side by side."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servesim.runtime.metrics import Slo
    from servesim.scenario import Result, Scenario
    from servesim.scenario.compare import Row

HELP = "simulate scenarios and set them side by side: latency, throughput, energy, cost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="scenario files (TOML)")
    slo = parser.add_argument_group("the objective for goodput, in place of the files' [slo]")
    for name, text in (
        ("ttft", "time to first token"),
        ("tpot", "time per output token"),
        ("e2e", "time to the last token"),
    ):
        slo.add_argument(f"--{name}", type=float, metavar="S", help=f"{text}, seconds")
    slo.add_argument(
        "--at-slo", type=float, metavar="SHARE",
        help="simulate each at the highest rate at which SHARE of the requests meet it",
    )  # fmt: skip
    parser.add_argument(
        "--usd-per-device-hour", type=float, metavar="X", help="rent of every device"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Simulate every scenario and print the comparison."""
    from servesim.scenario.compare import comparison

    scenarios = [_scenario(file, args) for file in args.files]
    results = [_simulate(scenario, args.at_slo) for scenario in scenarios]
    rows, names = comparison(results), _names(scenarios)
    slos = [scenario.slo for scenario in scenarios]
    if args.json:
        json.dump(_as_json(names, rows, slos), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(names, rows, slos)
    if args.at_slo is not None:
        _warn(names, results)
    return 0


def _warn(names: list[str], results: list[Result]) -> None:
    """Name the rates that only hold as long as the run is so short."""
    from servesim.scenario.capacity import too_short

    for name, result in zip(names, results, strict=True):
        if too_short(result):
            sys.stderr.write(
                f"warning: {name}: the requests have come before a queue could build up;"
                " give more num_requests\n"
            )


def _simulate(scenario: Scenario, share: float | None) -> Result:
    from servesim.scenario import run as simulate
    from servesim.scenario.capacity import highest_rate

    return simulate(scenario) if share is None else highest_rate(scenario, share)


def _scenario(file: str, args: argparse.Namespace) -> Scenario:
    from servesim.scenario import Scenario

    limits = {"ttft_s": args.ttft, "tpot_s": args.tpot, "e2e_s": args.e2e}
    flags: dict[str, Any] = {"slo": {k: v for k, v in limits.items() if v is not None}}
    if args.usd_per_device_hour is not None:
        flags["cost"] = {"usd_per_device_hour": args.usd_per_device_hour}
    return Scenario.load(file, flags)


def _names(scenarios: list[Scenario]) -> list[str]:
    """Their names; numbered where one comes twice."""
    names = [scenario.name for scenario in scenarios]
    return [
        name if names.count(name) == 1 else f"{name} ({index})"
        for index, name in enumerate(names, 1)
    ]


def _as_json(names: list[str], rows: list[Row], slos: list[Slo]) -> dict[str, Any]:
    return {
        name: {**{row.key: row.values[column] for row in rows}, "slo": asdict(slos[column])}
        for column, name in enumerate(names)
    }


def _print(names: list[str], rows: list[Row], slos: list[Slo]) -> None:
    from servesim.cli.render import columns, indented, make_console

    console = make_console()
    table = columns("", *names)
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.group != row.group:
            table.add_section()
        table.add_row(row.title, *(_cell(row, value) for value in row.values))
    console.print()
    indented(console, table)
    console.print()
    for text in dict.fromkeys(map(_objective, slos)):
        whose = [name for name, slo in zip(names, slos, strict=True) if _objective(slo) == text]
        of = f" of {', '.join(whose)}" if len(whose) < len(names) else ""
        console.print(f"  SLO{of}: {text}", style="dim")


def _objective(slo: Slo) -> str:
    limits = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s), ("E2E", slo.e2e_s))
    given = [f"{name} within {limit:g} s" for name, limit in limits if limit is not None]
    return ", ".join(given) or "none, every finished request counts"


def _cell(row: Row, value: float | None) -> str:
    from servesim.cli.render import number

    if value is None:
        return "-"
    if row.group == "count":
        return f"{value:,.0f}"
    fine = row.group == "cost" or value * row.scale < 1.0
    return f"{value * row.scale:.3f}" if fine else number(value * row.scale)
