"""``servesim validate paper N --data DIR``: a figure of the paper, measured and simulated."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from servesim.validation.paper.figures import (
    Cases,
    PaperData,
    compare_figure,
    figure_numbers,
    figure_title,
)

HELP = "compare with the measured figures of the LLMServingSim 2.0 paper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    known = ", ".join(figure_numbers())
    parser.add_argument(
        "figures", nargs="*", metavar="N", help=f"figures ({known}); all by default"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the measurements")
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIR",
        help="measured layer latencies (default: profiles-v0 beside the data)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Simulate the figures and print measured, simulated and error."""
    data = PaperData.at(args.data, args.profile)
    figures = {number: compare_figure(number, data) for number in args.figures or figure_numbers()}
    if args.json:
        json.dump({"figures": {n: _as_json(cases) for n, cases in figures.items()}}, sys.stdout)
        sys.stdout.write("\n")
    else:
        for number, cases in figures.items():
            _print(number, cases)
    return 0


def _as_json(cases: Cases) -> dict[str, dict[str, dict[str, float]]]:
    return {
        case: {name: asdict(metric) for name, metric in metrics.items()}
        for case, metrics in cases.items()
    }


def _print(number: str, cases: Cases) -> None:
    from servesim.cli.render import columns, heading, indented, make_console
    from servesim.cli.render import number as digits

    console = make_console()
    heading(console, f"Figure {number}", figure_title(number))
    table = columns("", "", "measured", "simulated", "error", text=2)
    for case, metrics in cases.items():
        for index, (name, metric) in enumerate(metrics.items()):
            table.add_row(
                case if index == 0 else "",
                name,
                digits(metric.measured),
                digits(metric.simulated),
                f"{100 * metric.error:+.2f}%",
                end_section=index == len(metrics) - 1,
            )
    indented(console, table)
