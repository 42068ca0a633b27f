"""``servesim validate``: is it true? Recordings, measured runs, figures, energy."""

from __future__ import annotations

import argparse

from servesim.cli.commands_validate import energy, golden, live, paper, report, run_measured

HELP = "compare with vLLM's own scheduler, measured runs, figures and energy"

_CHECKS = {
    "golden": golden,
    "run": run_measured,
    "paper": paper,
    "live": live,
    "energy": energy,
    "report": report,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one sub-command a check."""
    checks = parser.add_subparsers(dest="check", metavar="CHECK", required=True)
    for name, module in _CHECKS.items():
        check = checks.add_parser(
            name, help=module.HELP, description=module.HELP, allow_abbrev=False
        )
        module.add_arguments(check)
        check.set_defaults(check_run=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen check."""
    return int(args.check_run(args))
