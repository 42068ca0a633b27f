"""Kernels kept out of the fits of the calibrated cost models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from servesim.hardware.calibrate.report import BIAS, MEDIAN, P90
from servesim.hardware.calibrated import FORMS
from servesim.hardware.calibration_entry import NOTES
from servesim.hardware.collective_tables import COLLECTIVE_ERRORS
from servesim.hardware.load import DEVICES, read_toml
from servesim.hardware.standing import FAMILIES
from servesim.validation.held_out import DEVICE_FILES
from servesim.validation.report.markdown import folded, percent, signed, table

ORDER = 25
TITLE = "Kernels kept out of their fit"

_NOTES = NOTES | {"borrow", "date", "most_bytes"} | set(COLLECTIVE_ERRORS)
_HEADS = ("kernels", "median", "p90", "bias")
_SHAPES = """\
Errors of the calibrated cost models on kernels whose shape (weight matrix, attention geometry,
expert layout) never entered the fit, as the device files note them: median and 90th percentile of
the absolute error, and the median signed error as bias, over all kernels of a family and device.
Aimed at: 5 %, 15 % and 1 %. `forms` counts the number formats, head widths or recurrences of the
family that reach all three by themselves. Collectives are kept out by size: every second one,
predicted by what was fitted to the others. In neither the fits nor these lines: products with more
than 8192 rows or a side under 512, decodes of more than 256 sequences or 32,768 keys, expert widths
that are no multiple of 64, more than 32 expert-parallel ranks, and benchmarks whose weights or
caches stayed partly in the last-level cache or that do not tell which experts they touched (A100: a
power law over ranks of under 32 pairs). Times of a table are first brought to the scale of serving,
as the device file notes under `origins`: table = factor x serving + offset. Products launched over
and over take 2.4 to 3.5 us less than in a model, by how the form is fitted, where both ways were
measured (RTX PRO 6000); elsewhere the smaller is assumed. Latent attention (`latent`, and
`expanded` for prefills) is what whole modules take beyond the products and norms around it, as
these forms predict them; not among its kernels: a single head, over 8192 tokens of prefills, and
modules of which that is less than three tenths. What nothing measured on a device tells is
`borrowed` in its file. Forms that rest on too few shapes to keep any out are not listed."""
_NUMBERS = """\
Numbers a device file holds, from fits of all families, and of these for collectives: {}."""
_MODELS = """\
Coefficients fitted without any layer latency of the model; errors on all of its layers, at one and
two ranks. Prefill includes mixed batches."""


def body(data: Path) -> str:
    """Errors by family and form, of devices and with a model kept out; from committed files."""
    files = {path.stem: path for path in sorted(DEVICES.glob("*.toml"))}
    return "\n\n".join(
        [
            _SHAPES,
            *_tables("device", files),
            _NUMBERS.format(", ".join(_sizes(files))),
            "### A whole model kept out, RTX PRO 6000",
            _MODELS,
            *_tables("model", DEVICE_FILES),
        ]
    )


def _tables(what: str, files: Mapping[str, Path]) -> Iterator[str]:
    """Errors by family, what they come to, and single forms folded away."""
    noted = {name: read_toml(path).get("calibration", {}) for name, path in files.items()}
    families = [line for name, tables in noted.items() for line in _families(name, tables)]
    forms = [line for name, tables in noted.items() for line in _forms(name, tables)]
    yield table((what, "family", *_HEADS, "forms"), families, text=2)
    kernels = sum(int(line[2].replace(",", "")) for line in families)
    yield f"{_met(families)} of {len(families)} families ({kernels:,} kernels) meet all three aims."
    by_form = table((what, "form", *_HEADS), forms, text=2)
    yield folded(f"Single forms: {_met(forms)} of {len(forms)} meet all three aims", by_form)


def _families(name: str, tables: Mapping[str, Any]) -> Iterator[list[str]]:
    """A line for each family of a device file that notes errors over all its forms."""
    for family, title in FAMILIES.items():
        errors = tables.get("held_out", {}).get(family)
        if errors:
            forms = list(_forms(name, {family: tables[family]}))
            count = f"{_met(forms)} of {len(forms)}" if forms else ""
            yield [name, title, *_cells(errors), count]


def _forms(name: str, tables: Mapping[str, Any]) -> Iterator[list[str]]:
    """A line for each form of a device file that notes held-out errors."""
    for family in FAMILIES:
        for key, form in sorted(tables.get(family, {}).items()):
            if isinstance(form, Mapping) and "held_out" in form:
                yield [name, f"{family}.{key}", *_cells(form["held_out"])]


def _sizes(files: Mapping[str, Path]) -> Iterator[str]:
    """Numbers in each device file that has tables of its own."""
    for name, path in files.items():
        tables = read_toml(path).get("calibration", {})
        collectives = _numbers(tables.get("collective", {}))
        if any(isinstance(tables.get(family), Mapping) for family in FORMS):
            yield f"{name} {_numbers(tables)} ({collectives})"


def _numbers(value: object) -> int:
    if isinstance(value, Mapping):
        return sum(_numbers(part) for name, part in value.items() if name not in _NOTES)
    return len(value) if isinstance(value, list) else int(isinstance(value, int | float))


def _cells(errors: Mapping[str, float]) -> list[str]:
    return [
        f"{errors['kernels']:,}",
        percent(errors["median"], MEDIAN),
        percent(errors["p90"], P90),
        signed(errors["bias"], BIAS),
    ]


def _met(lines: list[list[str]]) -> int:
    return sum(not any("missed" in cell for cell in line) for line in lines)
