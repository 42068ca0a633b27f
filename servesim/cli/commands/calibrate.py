"""``servesim calibrate``: a device's coefficients from measured kernels."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from servesim.hardware.calibrate.geometry import Geometry
from servesim.models.config import resolve

HELP = "fit a device's cost model to measured kernels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", required=True, metavar="NAME", help="device file or name")
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        type=Path,
        metavar="FOLDER",
        help="kernel tables (AIConfigurator) or layer tables (LLMServingSim); may be repeated",
    )
    parser.add_argument(
        "--exclude-model",
        action="append",
        default=[],
        metavar="ID",
        help="keep this model's layer tables out of the fit and report errors on them",
    )
    parser.add_argument(
        "--joint-attention",
        action="store_true",
        help="mixed batches run in one attention kernel (FlashAttention 2)",
    )
    parser.add_argument(
        "--borrow", metavar="NAME", help="device whose coefficients serve where there are none"
    )
    parser.add_argument("--only", metavar="PREFIX", default="", help="fit only forms named so")
    parser.add_argument(
        "--source", default="", help="what the file says of where the measurements come from"
    )
    parser.add_argument("--out", type=Path, help="device file to write the coefficients into")
    parser.add_argument("--report", type=Path, help="file for the table of held-out errors")


def run(args: argparse.Namespace) -> int:
    """Fit, then write or print coefficients and errors."""
    from servesim.hardware.calibrate.report import report_text
    from servesim.hardware.calibrate.run import as_table, calibrate
    from servesim.hardware.calibrate.sources import measured_rows
    from servesim.hardware.calibrate.write import calibration_text, replace_calibration
    from servesim.hardware.load import load_device

    device = load_device(args.device)
    cache = device.cache.capacity_bytes if device.cache else 0.0
    rows = [row for folder in args.data for row in measured_rows(folder, cache, _geometry)]
    rows = [row for row in rows if row.form.startswith(args.only)]
    excluded = {resolve(model).name for model in args.exclude_model}
    results = calibrate(device, rows, excluded, args.joint_attention, _progress)
    tables = {r.form: as_table(r, args.source or ", ".join(r.sources)) for r in results}
    head = {"date": datetime.date.today().isoformat()}
    if args.borrow:
        head["borrow"] = load_device(args.borrow).name
    text = calibration_text(tables, head)
    if args.out:
        replace_calibration(args.out, text)
    else:
        sys.stdout.write(text)
    report = report_text(device.name, results)
    if args.report:
        args.report.write_text(report, encoding="utf-8")
    else:
        sys.stdout.write(report)
    return 0


def _progress(form: str) -> None:
    sys.stderr.write(f"fitting {form}\n")


def _geometry(model: str) -> Geometry:
    return Geometry.of_config(resolve(model).language_values)
