"""``servesim validate golden FILE...``: does our scheduler decide as vLLM's did?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from servesim.validation.golden import GoldenResult, replay

HELP = "replay recordings of vLLM's scheduler and compare every step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="a recording (JSON)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Replay every recording; exit code 1 if any differs."""
    results = [replay(path) for path in args.files]
    if args.json:
        cases = [dataclasses.asdict(result) for result in results]
        json.dump({"cases": cases}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(results)
    return 0 if all(result.identical for result in results) else 1


def _print(results: Sequence[GoldenResult]) -> None:
    from rich.text import Text

    from servesim.cli.render import columns, make_console

    table = columns("recording", "steps", "", text=1)
    for result in results:
        verdict = Text("identical", "green") if result.identical else Text("differs", "red")
        table.add_row(result.file, f"{result.steps:,}", verdict)
    console = make_console()
    console.print(table)
    for result in results:
        if result.first_difference is not None:
            console.print(f"{result.file}: {result.first_difference}")
    same = sum(result.identical for result in results)
    steps = sum(result.steps for result in results)
    console.print(f"{same} of {len(results)} recordings identical, {steps:,} steps")
