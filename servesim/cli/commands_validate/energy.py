"""``servesim validate energy``: measured J/token of saturated servers against predictions."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from servesim.validation.energy.configurations import read_configurations
from servesim.validation.energy.report import EnergyValidation, Errors, validate_energy

HELP = "compare the energy of vLLM configurations with predictions for models not fitted on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="CSV file, or a folder of them"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Predict every configuration and print the errors."""
    found = validate_energy(read_configurations(args.data))
    if args.json:
        by_gpu = {gpu: asdict(result) for gpu, result in found.items()}
        json.dump({"energy": by_gpu}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        for gpu, result in found.items():
            _print(gpu, result)
    return 0


def _print(gpu: str, result: EnergyValidation) -> None:
    from servesim.cli.render import columns, heading, indented, make_console, percent

    console = make_console()
    title = f"{result.configurations} configurations on {gpu}"
    heading(console, "Energy", f"{title}; medians of absolute relative errors")
    table = columns("", "tests", "J/token", "power", "step", "within 15%")

    def add(name: str, errors: Errors) -> None:
        values = (errors.joules_per_token, errors.watts, errors.step, errors.within)
        table.add_row(name, f"{errors.count}", *map(percent, values))

    add("held out", result.held_out)
    for number, errors in enumerate(result.splits, 1):
        add(f"  tested on all but third {number}", errors)
    for task, errors in result.by_task.items():
        add(f"  {task}", errors)
    add("as shipped (fitted on all H100)", result.shipped)
    indented(console, table)
    console.print(
        "\n  held out: coefficients fitted on a third of the models, tested on the others;\n"
        "  power: if a step took the measured time; J/token: all predicted"
    )
    power, time = result.power, result.time
    console.print(
        f"  fitted on all: {power.active_watts:.0f} W + {power.memory_watts:.0f} W at full"
        f" bandwidth + {power.compute_watts:.0f} W at peak arithmetic;\n"
        f"  {time.step_s * 1e3:.2f} ms and {time.logit_bytes:.0f} bytes a logit in a step"
    )
    for model, reason in result.skipped.items():
        console.print(f"  skipped {model}: {reason}")
