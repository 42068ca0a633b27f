"""How near forms come to kernels that no fit has seen, all forms of a family together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from servesim.hardware.calibrate.errors import ErrorLine, error_line
from servesim.hardware.calibrate.fit import Scale, scaled
from servesim.hardware.calibrate.problems import form_seconds
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.split import serving, split
from servesim.hardware.calibrated import CalibratedCost, machine_of
from servesim.hardware.device import Device


def held_out_rows(
    tables: Mapping[str, Any], groups: Mapping[str, Sequence[Row]], exclude_models: Collection[str]
) -> dict[str, list[Row]]:
    """Rows in sizes of serving that the fits behind ``tables`` never saw, by family.

    Times are brought to the scale of serving, as the tables note under ``origins``.

    Args:
        tables: ``[calibration]`` of the device that was measured.
        groups: what was measured, by form (:func:`servesim.hardware.calibrate.split.by_form`).
    """
    found: dict[str, list[Row]] = {}
    for form, rows in groups.items():
        family, key = form.split(".", maxsplit=1)
        table = tables.get(family, {}).get(key)
        if table is None:
            continue
        origins = {name: Scale(*scale) for name, scale in table.get("origins", {}).items()}
        tested = serving(scaled(split(rows, exclude_models).tested, origins))
        if tested:
            found.setdefault(family, []).extend(tested)
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
