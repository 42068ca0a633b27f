"""``servesim validate report``: every comparison, as one Markdown file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from servesim.errors import InputError
from servesim.validation.report import figures, report

HELP = "write every comparison there are measurements for as one Markdown file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the measurements")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")


def run(args: argparse.Namespace) -> int:
    """Run all comparisons and write the report."""
    if not args.data.is_dir():
        raise InputError(f"no folder of measurements at {args.data}")
    text = report(args.data)
    if args.out is None:
        sys.stdout.write(text)
    else:
        args.out.write_text(text, encoding="utf-8")
        _write_figures(args.out.parent / "figures")
    return 0


def _write_figures(folder: Path) -> None:
    for name, text in figures().items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
