"""How near forms come to kernels that no fit has seen, all forms of a family together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from servesim.errors import InputError
from servesim.hardware.calibrate.errors import ErrorLine, error_line
from servesim.hardware.calibrate.fit import Scale, scaled, thinned
from servesim.hardware.calibrate.problems import form_seconds
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.split import serving, split
from servesim.hardware.calibrated import CalibratedCost, machine_of
from servesim.hardware.device import Device
from servesim.hardware.forms.keys import form_kind
from servesim.hardware.lending import as_lent

#: Rows of a form that lent coefficients are judged by.
_MOST_LENT = 800
#: Families that one kernel may run together: a lender must have both.
_ATTENTION = ("decode", "prefill")
#: Columns of ``Lent`` as text.
LENT_HEAD = "lender,family,kernels,median,p90,bias"
#: Keys of a calibration that are not its own forms.
_NOT_OWN = ("borrow", "collective")


class Lent(NamedTuple):
    """Errors of a family of one device with coefficients of another."""

    lender: str
    family: str
    error: ErrorLine

    def __str__(self) -> str:
        e = self.error
        errors = f"{e.median:.4f},{e.p90:.4f},{e.bias:.4f}"
        return f"{self.lender},{self.family},{e.kernels},{errors}"


def held_out_rows(
    tables: Mapping[str, Any], groups: Mapping[str, Sequence[Row]], exclude_models: Collection[str]
) -> dict[str, list[Row]]:
    """Rows in sizes of serving that the fits behind ``tables`` never saw, by family.

    Times are brought to the scale of serving, as the tables note under ``origins``.

    Args:
        tables: ``[calibration]`` of the device that was measured.
        groups: what was measured, by form (:func:`servesim.hardware.calibrate.split.by_form`).
    """
    tested = {form: split(rows, exclude_models).tested for form, rows in groups.items()}
    return _by_family(tables, tested)


def _by_family(
    tables: Mapping[str, Any], groups: Mapping[str, Sequence[Row]]
) -> dict[str, list[Row]]:
    """Rows in sizes of serving of the forms in ``tables``, on the scale of serving."""
    found: dict[str, list[Row]] = {}
    for form, rows in groups.items():
        family, key = form.split(".", maxsplit=1)
        table = tables.get(family, {}).get(key)
        if table is None:
            continue
        origins = {name: Scale(*scale) for name, scale in table.get("origins", {}).items()}
        inside = serving(scaled(rows, origins))
        if inside:
            found.setdefault(family, []).extend(inside)
    return found


def family_errors(
    device: Device, tables: Mapping[str, Any], rows: Mapping[str, Sequence[Row]]
) -> dict[str, ErrorLine]:
    """Errors of the forms in ``tables`` on ``rows`` of each family (``held_out_rows``)."""
    costs = CalibratedCost.from_coefficients(device, tables)
    assert isinstance(costs, CalibratedCost)

    def predict(row: Row) -> float:
        family, key = row.form.split(".", maxsplit=1)
        form = costs.entries[family][key].form
        return form_seconds(family, form, row, machine_of(device, row.work.dtype))

    return _lines(rows, predict)


def _lines(
    rows: Mapping[str, Sequence[Row]], predict: Callable[[Row], float]
) -> dict[str, ErrorLine]:
    return {family: error_line(rows[family], predict, "all", "serving") for family in sorted(rows)}


def lent_errors(
    device: Device, groups: Mapping[str, Sequence[Row]], lenders: Sequence[Device]
) -> list[Lent]:
    """Errors of forms that other devices lend, as if nothing were known of ``device``.

    Lenders are those of ``lenders`` that are of its kind and have tables of their own; each lends
    what was fitted on itself. Judged on all rows of the forms that ``device`` has.

    Raises:
        InputError: none of ``lenders`` is such a device, or ``device`` has no such form.
    """
    few = {form: thinned(serving(rows), _MOST_LENT, seed=2) for form, rows in groups.items()}
    rows = _by_family(device.calibration, few)
    if not rows:
        raise InputError(f"{device.name} has no form of what was measured to compare with")
    found = []
    for lender in lenders:
        if lender.name == device.name or lender.kind != device.kind:
            continue
        for family in sorted(rows):
            line = _lent_error(_own(device, lender), family, rows[family])
            if line is not None:
                found.append(Lent(lender.name, family, line))
    if not found:
        raise InputError(f"{device.name}: no other {device.kind} has tables to lend")
    return found


def _own(device: Device, lender: Device) -> CalibratedCost:
    """Costs of ``device`` by what was fitted on ``lender`` itself."""
    tables = {k: v for k, v in lender.calibration.items() if k not in _NOT_OWN}
    costs = CalibratedCost.from_coefficients(device, tables)
    assert isinstance(costs, CalibratedCost)
    lent = {
        family: {key: as_lent(entry, lender, device) for key, entry in entries.items()}
        for family, entries in costs.entries.items()
    }
    return replace(costs, entries=lent)


def _lent_error(costs: CalibratedCost, family: str, rows: Sequence[Row]) -> ErrorLine | None:
    """Errors of ``costs`` on ``rows`` of a family; None where they have none of it."""
    together = _ATTENTION if family in _ATTENTION else (family,)
    if not all(costs.entries[part] for part in together):
        return None
    if family in _ATTENTION:
        kinds = {form_kind(family, key) for key in costs.entries[family]}
        rows = [r for r in rows if form_kind(*r.form.split(".", maxsplit=1)) in kinds]

    def predict(row: Row) -> float:
        return costs.cost(row.work, row.resident).seconds

    return error_line(rows, predict, "all", "serving") if rows else None
