"""From measured kernels to a device's cost model, every error on kernels kept out of the fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from servesim.errors import InputError
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork, RecurrentWork, Work
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.run import FormResult, as_table, calibrate
from servesim.hardware.device import Device
from servesim.hardware.forms.keys import attention_key, gemm_key, moe_key
from servesim.hardware.measure.curves import (
    fit_sum,
    held_out_sum_errors,
    left_out_errors,
    thinned,
)
from servesim.hardware.measured import CURVES, SUMS, count_of, shape_of, terms_of

Seconds = Mapping[Work, float]
#: Where rows of this kit say they come from.
ORIGIN = "serving"


@dataclass(frozen=True, slots=True)
class Line:
    """Held-out errors of one family and way of predicting it."""

    family: str
    how: str
    kernels: int
    median: float
    p90: float
    bias: float


@dataclass
class Fitted:
    """What a device file will hold.

    Attributes:
        measured: curves and sums by family and shape.
        calibration: tables of the forms by name.
        errors: what was reached on held-out kernels.
    """

    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: list[Line] = field(default_factory=list)


def fit_all(
    device: Device,
    seconds: Seconds,
    source: str,
    progress: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """Curves, sums and forms of all that was measured on ``device``.

    A sum is kept only where it predicts its family better than the calibrated form does: on a
    device whose cores share a sequence's work, it does not.
    """
    fitted = Fitted()
    results = _forms(device, seconds, progress)
    for result in results:
        fitted.calibration[result.form] = as_table(result, source)
        if result.total is not None:
            t = result.total
            family = result.form.partition(".")[0]
            fitted.errors.append(
                Line(family, f"form {result.form}", t.kernels, t.median, t.p90, t.bias)
            )
    _fit_curves(fitted, seconds)
    _fit_sums(fitted, seconds)
    return fitted


def _fit_curves(fitted: Fitted, seconds: Seconds) -> None:
    for family in CURVES:
        errors: list[float] = []
        for shape, works in _by_shape(family, seconds).items():
            points = sorted((count_of(work), seconds[work]) for work in works)
            errors += left_out_errors(points)
            kept = [(_number(x), float(f"{y:.4g}")) for x, y in thinned(points)]
            fitted.measured.setdefault(family, {})[shape] = [list(point) for point in kept]
        if errors:
            fitted.errors.append(_line(family, "curves", errors))


def _fit_sums(fitted: Fitted, seconds: Seconds) -> None:
    for family in SUMS:
        errors: list[float] = []
        sums = {}
        for shape, works in _by_shape(family, seconds).items():
            rows = [(terms_of(work), seconds[work]) for work in works]
            found = held_out_sum_errors(rows)
            if found:
                errors += found
                sums[shape] = {n: float(f"{v:.4g}") for n, v in fit_sum(rows).items()}
        if not errors:
            continue
        line = _line(family, "sums", errors)
        fitted.errors.append(line)
        parts = ("decode", "prefill") if family == "attention" else (family,)
        rivals = [e for e in fitted.errors if e.family in parts and e.how != "sums"]
        if not rivals or line.median <= max(rival.median for rival in rivals):
            fitted.measured[family] = sums


def _by_shape(family: str, seconds: Seconds) -> dict[str, list[Work]]:
    found: dict[str, list[Work]] = {}
    for work in seconds:
        if work.family == family:
            found.setdefault(shape_of(work), []).append(work)
    return found


def _line(family: str, how: str, errors: Iterable[float]) -> Line:
    signed = np.array(list(errors))
    sizes = np.abs(signed)
    median, p90 = np.quantile(sizes, (0.5, 0.9))
    return Line(family, how, len(signed), float(median), float(p90), float(np.median(signed)))


def _forms(device: Device, seconds: Seconds, progress: Callable[[str], None]) -> list[FormResult]:
    rows = [row for work, s in seconds.items() for row in _rows(work, s)]
    if not rows:
        return []
    try:
        return calibrate(device, rows, progress=progress)
    except InputError:  # too few kernels for any form
        return []


def _rows(work: Work, seconds: float) -> list[Row]:
    """The rows that `calibrate` fits forms to: attention only where it is of one kind."""
    if isinstance(work, GemmWork):
        form = f"gemm.{gemm_key(work)}"
    elif isinstance(work, MoeWork):
        form = f"moe.{moe_key(work)}"
    elif isinstance(work, MemoryWork):
        form = f"memory.{work.kernel}"
    elif isinstance(work, RecurrentWork):
        form = f"recurrent.{work.recurrence}"
    elif isinstance(work, AttentionWork) and not (work.decodes and work.prefills):
        form = f"{'decode' if work.decodes else 'prefill'}.{attention_key(work)}"
    else:
        return []
    return [Row(work, seconds, form, shape_of(work), ORIGIN, regime=work.family)]


def _number(count: float) -> int | float:
    return int(count) if float(count).is_integer() else count
