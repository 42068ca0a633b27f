"""``servesim devices``: which devices there are, and what their costs rest on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servesim.hardware.device import Device

HELP = "list devices and what their costs rest on, or what was measured on one"

_LEGEND = (
    "own: measured, or calibrated on measurements, of the device; lent: calibrated on another one, "
    "relative to its peaks; sheet: the data sheet alone; timing: of DRAM; model: in Python. "
    "`servesim devices NAME` has the details."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="device file or name: its forms")


def run(args: argparse.Namespace) -> int:
    """Print all devices, or the forms of one."""
    from servesim.hardware.load import device_names, load_device, load_sheet

    if args.name:
        _print_one(load_device(args.name))
    else:
        _print_all([load_sheet(name) for name in device_names()])
    return 0


def _print_all(devices: list[Device]) -> None:
    from servesim.cli.render import columns, make_console
    from servesim.hardware.standing import FAMILIES, standing

    table = columns("device", *FAMILIES.values(), text=1 + len(FAMILIES))
    table.columns[0].no_wrap, table.padding = True, (0, 1, 0, 0)
    for device in devices:
        found = standing(device)
        table.add_row(device.name, *(_short(found[family]) for family in FAMILIES))
    console = make_console()
    console.print(table)
    console.print(f"\n{_LEGEND}", style="dim")


def _print_one(device: Device) -> None:
    from servesim.cli.render import columns, grid, heading, indented, make_console
    from servesim.hardware.standing import FAMILIES, is_lent, standing

    console = make_console()
    heading(console, device.name, device.title)
    found = standing(device)
    bases = [(title, found[family]) for family, title in FAMILIES.items()]
    rows = [(title, f"lent by {basis}" if is_lent(basis) else basis) for title, basis in bases]
    indented(console, grid(rows))
    forms = columns("form", "kept out", "median", "p90", "bias", "sizes up to", text=1)
    forms.columns[0].no_wrap = True
    forms.columns[-1].justify, forms.columns[-1].no_wrap = "left", False
    for cells in _forms(device.calibration):
        forms.add_row(*cells)
    if forms.row_count:
        heading(console, "calibrated forms", "beyond these sizes costs count as extrapolated")
        indented(console, forms)


def _forms(calibration: Mapping[str, Any]) -> Iterator[list[str]]:
    """Name, held-out errors and fitted sizes of every form that a device has of its own."""
    from servesim.hardware.standing import FAMILIES

    for family in FAMILIES:
        tables = calibration.get(family)
        for key, form in sorted(tables.items() if isinstance(tables, Mapping) else ()):
            if isinstance(form, Mapping) and "range" in form:
                sizes = (f"{name} {_size(high)}" for name, (_, high) in form["range"].items())
                yield [f"{family}.{key}", *_errors(form.get("held_out")), ", ".join(sizes)]


def _errors(noted: Mapping[str, float] | None) -> list[str]:
    if not noted:
        return [""] * 4
    shares = [f"{100 * noted[name]:.1f} %" for name in ("median", "p90")]
    return [f"{noted['kernels']:,}", *shares, f"{100 * noted['bias']:+.1f} %"]


def _short(basis: str) -> str:
    from servesim.hardware.standing import is_lent, is_own

    if is_own(basis):
        return "own"
    return "lent" if is_lent(basis) else basis.rsplit(maxsplit=1)[-1]


def _size(size: float) -> str:
    return f"{size / 1e6:,.0f} M" if size >= 1e6 else f"{size:,.0f}"
