"""``servesim calibrate``: a device's coefficients from measured kernels."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from servesim.hardware.calibrate.geometry import Geometry
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.write import COLLECTIVE
from servesim.hardware.device import Device
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
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PREFIX",
        help="fit only forms named so (gemm, memory.norm, collective), keep the others; repeatable",
    )
    parser.add_argument(
        "--source", default="", help="what the file says of where the measurements come from"
    )
    parser.add_argument("--out", type=Path, help="device file to write the coefficients into")
    parser.add_argument("--report", type=Path, help="file for the table of held-out errors")


def run(args: argparse.Namespace) -> int:
    """Fit, then write or print coefficients and errors."""
    from servesim.hardware.calibrate.report import report_text
    from servesim.hardware.calibrate.run import as_table, calibrate
    from servesim.hardware.calibrate.write import (
        calibration_text,
        other_tables,
        replace_calibration,
    )
    from servesim.hardware.load import load_device

    device = load_device(args.device)
    excluded = {resolve(model).name for model in args.exclude_model}
    results = []
    if args.only != [COLLECTIVE]:
        rows = _rows(args.data, device)
        results = calibrate(device, rows, excluded, args.joint_attention, args.only, _progress)
    tables = {r.form: as_table(r, args.source or ", ".join(r.sources)) for r in results}
    if args.only and args.out:
        tables = dict(sorted((tables | other_tables(args.out, args.only)).items()))
    head = {"date": datetime.date.today().isoformat()}
    if args.borrow:
        head["borrow"] = load_device(args.borrow).name
    text, collectives = calibration_text(tables, head), _collectives(args, device)
    if args.out:
        replace_calibration(args.out, text, collectives)
    else:
        sys.stdout.write(f"{text}\n{collectives}" if collectives else text)
    report = report_text(device.name, results)
    if args.report:
        args.report.write_text(report, encoding="utf-8")
    else:
        sys.stdout.write(report)
    return 0


def _rows(folders: Sequence[Path], device: Device) -> list[Row]:
    from servesim.hardware.calibrate.sources import measured_rows

    cache = device.cache.capacity_bytes if device.cache else 0.0
    costs = device.cost_model
    return [row for folder in folders for row in measured_rows(folder, cache, _geometry, costs)]


def _collectives(args: argparse.Namespace, device: Device) -> str:
    """The fitted collectives as TOML; empty where there are no tables of them."""
    from servesim.hardware.calibrate.collectives import (
        fit_collectives,
        has_collectives,
        read_kernel_tables,
        to_toml,
    )

    folders = [folder for folder in args.data if has_collectives(folder)]
    if not folders or (args.only and COLLECTIVE not in args.only):
        return ""
    on_host_link = device.peer_link is not None and not device.peer_link.peer_access
    samples = [s for folder in folders for s in read_kernel_tables(folder, on_host_link)]
    return to_toml(fit_collectives(samples), args.source or ", ".join(f.name for f in folders))


def _progress(form: str) -> None:
    sys.stderr.write(f"fitting {form}\n")


def _geometry(model: str) -> Geometry:
    return Geometry.of_config(resolve(model).language_values)
