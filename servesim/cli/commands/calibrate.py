"""``servesim calibrate``: a device's coefficients from measured kernels."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servesim.errors import InputError
from servesim.hardware.calibrate.geometry import Geometry
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.write import COLLECTIVE, Tables
from servesim.hardware.device import Device
from servesim.models.config import resolve

if TYPE_CHECKING:
    from servesim.hardware.calibrate.collective_fit import CollectiveFit

HELP = "fit a device's cost model to measured kernels"
#: Options of a fit, which ``--lent`` does without.
_OF_A_FIT = ("out", "report", "only", "exclude_model", "borrow", "source")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", required=True, metavar="NAME", help="device file or name")
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        type=Path,
        metavar="FOLDER",
        help="kernel tables (AIConfigurator), layer tables (LLMServingSim) or collectives"
        " (AIConfigurator, nccl-tests); may be repeated",
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
    parser.add_argument(
        "--lent",
        type=Path,
        metavar="FILE",
        help="fit nothing: CSV file for the errors of coefficients that each other device lends",
    )
    parser.add_argument("--report", type=Path, help="file for the table of held-out errors")


def run(args: argparse.Namespace) -> int:
    """Fit, then write or print coefficients and errors."""
    from servesim.hardware.calibrate.report import report_text
    from servesim.hardware.calibrate.run import as_table, calibrate
    from servesim.hardware.calibrate.write import replace_calibration
    from servesim.hardware.load import load_device

    device = load_device(args.device)
    _require_writable(args)
    if args.lent:
        return _lent(args, device)
    rows: list[Row] = []
    results = []
    if _only_collectives(args):
        args.only = [COLLECTIVE]
    else:
        only = [form for form in args.only if form != COLLECTIVE]
        excluded = _excluded(args)
        rows = _rows(args.data, device)
        results = calibrate(device, rows, excluded, args.joint_attention, only, _progress)
    tables = {r.form: as_table(r, args.source or ", ".join(r.sources)) for r in results}
    fits = _collective_fits(args, device)
    text = _calibration(args, device, rows, tables, fits)
    collectives = _collectives(args, fits)
    report = report_text(device.name, results)
    if args.report:
        args.report.write_text(report, encoding="utf-8")
    if args.out:
        replace_calibration(args.out, text, collectives)
    else:
        sys.stdout.write(f"{text}\n{collectives}" if collectives else text)
    if not args.report:
        sys.stdout.write(report)
    return 0


def _require_writable(args: argparse.Namespace) -> None:
    """Find out before minutes of fitting whether all that is asked for can be written."""
    from servesim.hardware.load import read_toml
    from servesim.scenario.files import require_writable_file

    if args.out:
        if not args.out.is_file():
            raise InputError(f"--out {args.out}: no such device file to write coefficients into")
        read_toml(args.out)  # a data sheet; Python is none
    for path in (args.out, args.report, args.lent):
        if path:
            require_writable_file(path)
            if not path.parent.is_dir():
                raise InputError(f"cannot write {path}: {path.parent} does not exist")


def _only_collectives(args: argparse.Namespace) -> bool:
    """Whether nothing but collectives is to be fitted; as where nothing else was measured."""
    from servesim.hardware.calibrate.collective_sources import has_samples
    from servesim.hardware.calibrate.sources import has_tables

    if args.only:
        return set(args.only) == {COLLECTIVE}
    return any(map(has_samples, args.data)) and not any(map(has_tables, args.data))


def _lent(args: argparse.Namespace, device: Device) -> int:
    """Write how near every other device's coefficients come to what was measured on ``device``."""
    from servesim.hardware.calibrate.judge import LENT_HEAD, lent_errors
    from servesim.hardware.calibrate.split import by_form
    from servesim.hardware.load import device_names, load_device

    for option in _OF_A_FIT:
        if getattr(args, option):
            raise InputError(
                f"--lent fits nothing: --{option.replace('_', '-')} is of no use with it"
            )
    groups = by_form(device, _rows(args.data, device), args.joint_attention)
    found = lent_errors(device, groups, [load_device(name) for name in device_names()])
    args.lent.write_text("\n".join([LENT_HEAD, *map(str, found)]) + "\n", encoding="utf-8")
    return 0


def _excluded(args: argparse.Namespace) -> set[str]:
    return {resolve(model).name for model in args.exclude_model}


def _calibration(
    args: argparse.Namespace,
    device: Device,
    rows: Sequence[Row],
    fitted: Tables,
    fits: Sequence[CollectiveFit],
) -> str:
    """``[calibration]`` with the forms just ``fitted`` and, with ``--only``, others of the file."""
    from servesim.hardware.calibrate.collective_fit import pooled_error
    from servesim.hardware.calibrate.write import (
        BORROW,
        HELD_OUT,
        by_family,
        calibration_text,
        other_tables,
        written,
    )
    from servesim.hardware.load import load_device

    before = written(args.out) if args.out else {}
    others = other_tables(before, args.only, fitted) if args.only else {}
    tables = dict(sorted({**others, **fitted}.items()))
    nested = by_family(tables)
    errors = {f: e for f, e in before.get(HELD_OUT, {}).items() if f in {*nested, COLLECTIVE}}
    errors |= _family_errors(args, device, rows, nested, fitted)
    if fits:
        errors[COLLECTIVE] = pooled_error(fits)
    head: dict[str, Any] = {"date": datetime.date.today().isoformat()}
    borrow = load_device(args.borrow).name if args.borrow else before.get(BORROW)
    if borrow:
        head[BORROW] = borrow
    return calibration_text(tables, head, dict(sorted(errors.items())))


def _family_errors(
    args: argparse.Namespace,
    device: Device,
    rows: Sequence[Row],
    tables: Mapping[str, Mapping[str, Any]],
    fitted: Iterable[str],
) -> dict[str, dict[str, float]]:
    """Errors of the families of which a form was ``fitted``, over all forms in ``tables``."""
    from servesim.hardware.calibrate.errors import note
    from servesim.hardware.calibrate.judge import family_errors, held_out_rows
    from servesim.hardware.calibrate.split import by_form

    families = {form.split(".", maxsplit=1)[0] for form in fitted}
    groups = by_form(device, rows, args.joint_attention)
    tested = held_out_rows({f: tables[f] for f in sorted(families)}, groups, _excluded(args))
    return {f: note(line) for f, line in family_errors(device, tables, tested).items()}


def _rows(folders: Sequence[Path], device: Device) -> list[Row]:
    from servesim.hardware.calibrate.collective_sources import has_samples
    from servesim.hardware.calibrate.sources import has_tables, measured_rows

    cache = device.cache.capacity_bytes if device.cache else 0.0
    costs = device.cost_model
    places = [place for place in folders if has_tables(place) or not has_samples(place)]
    found = []
    for place in places:
        found += measured_rows(place, cache, _geometry, costs, device.name)
    return found


def _collective_fits(args: argparse.Namespace, device: Device) -> list[CollectiveFit]:
    """Fitted collectives; none where none were measured, or other forms are asked for.

    Raises:
        InputError: they are asked for, and none were measured or the device has no link.
    """
    from servesim.hardware.calibrate.collective_fit import fit_collectives
    from servesim.hardware.calibrate.collective_sources import collective_samples, has_samples

    if args.only and COLLECTIVE not in args.only:
        return []
    places, link = [place for place in args.data if has_samples(place)], device.peer_link
    if places and link is not None:
        samples = [s for place in places for s in collective_samples(place, link, device)]
        return fit_collectives(samples, link.bandwidth)
    if COLLECTIVE not in args.only:
        return []
    if places:
        raise InputError(f"{device.name} has no link to fit: neither scale_up nor host_link")
    raise InputError(
        f"{', '.join(map(str, args.data))}: no collectives (nccl_perf.parquet, "
        "custom_allreduce_perf.parquet or outputs of nccl-tests)"
    )


def _collectives(args: argparse.Namespace, fits: Sequence[CollectiveFit]) -> str:
    """The fitted collectives as TOML; empty without any."""
    from servesim.hardware.calibrate.collective_fit import to_toml
    from servesim.hardware.calibrate.collective_sources import has_samples

    folders = (folder.name for folder in args.data if has_samples(folder))
    source = args.source or ", ".join(folders)
    return to_toml(fits, source) if fits else ""


def _progress(form: str) -> None:
    sys.stderr.write(f"fitting {form}\n")


def _geometry(model: str) -> Geometry:
    return Geometry.of_config(resolve(model).language_values)
