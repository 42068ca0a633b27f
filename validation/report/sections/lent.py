"""Kernels of a device predicted with what was fitted on another one."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from servesim.hardware.standing import FAMILIES
from servesim.validation.report.markdown import folded, percent, signed, table

ORDER = 26
TITLE = "Devices without tables of their own"

_FOLDER = Path(__file__).parents[2] / "lent"
#: Devices of one chip that differ in memory alone.
_SAME_CHIP = frozenset({"h100_sxm", "h200_sxm"})
_INTRODUCTION = """\
A device without tables takes the coefficients of another one, relative to its own peaks, cores and
cache; times a kernel or a tile takes beside its work carry over as they are. What that costs in
accuracy shows where both were measured: all kernels of a device predicted with what was fitted on
another one alone, as if the device had no tables (`servesim calibrate --device NAME --data FOLDER
--lent validation/lent/NAME.csv`). `one chip`: H100 and H200, which differ in memory alone;
`others`: all other pairs of GPUs, the middle one of their medians and of their 90th percentiles,
and the least and largest median."""
_RULE = """\
So device files `borrow` from the same chip where one was measured, else from the same generation
and kind of memory, and attention from a device that runs the same kernels (FlashAttention 2 on
Ampere, Ada and RTX Blackwell, 3 on Hopper). A device's own attention of one head width or cache
format stands in for its others: trials found it nearer than another device's of that width. In
trials, scaling the times that carry over with the clock helped decodes to and from the A100, left
products and experts as they are and hurt prefills, and the mean of all lenders was no nearer than
one of the same generation: neither is done. Layer times of the A6000 are of kernels that newer
engines fuse, so norms and activations are not lent from it. Of other TPUs than v6e and of the
devices of AMD and Intel nothing was measured: expect no less than `others`."""


def body(data: Path) -> str:
    """Errors to expect by family, then every pair; from committed files alone."""
    pairs = {path.stem: _read(path) for path in sorted(_FOLDER.glob("*.csv"))}
    lines = [(name, row) for name, rows in pairs.items() for row in rows]
    each = [[name, row["lender"], FAMILIES[row["family"]], *_cells(row)] for name, row in lines]
    heads = ("device", "lender", "family", "kernels", "median", "p90", "bias")
    return "\n\n".join(
        [
            _INTRODUCTION,
            table(("family", "one chip", "p90", "others", "p90", "least", "largest"), _sum(lines)),
            _RULE,
            folded(f"All {len(each)} pairs", table(heads, each, text=3)),
        ]
    )


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _sum(lines: Sequence[tuple[str, Mapping[str, str]]]) -> Iterable[list[str]]:
    """Medians and 90th percentiles of a family between devices of one chip, and between others."""
    for family, title in FAMILIES.items():
        near: list[tuple[float, float]] = []
        far: list[tuple[float, float]] = []
        for name, row in lines:
            if row["family"] == family:
                one_chip = {name, row["lender"]} <= _SAME_CHIP
                (near if one_chip else far).append((float(row["median"]), float(row["p90"])))
        if far:
            medians = [m for m, _ in far]
            ends = percent(min(medians)), percent(max(medians))
            yield [title, *_middle(near), *_middle(far), *ends]


def _middle(errors: Sequence[tuple[float, float]]) -> list[str]:
    if not errors:
        return ["", ""]
    return [percent(median(m for m, _ in errors)), percent(median(p for _, p in errors))]


def _cells(row: Mapping[str, str]) -> list[str]:
    errors = (float(row[name]) for name in ("median", "p90"))
    return [f"{int(row['kernels']):,}", *map(percent, errors), signed(float(row["bias"]))]
