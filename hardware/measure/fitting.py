"""From measured kernels to a device's cost model, every error on kernels kept out of the fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    sum_errors,
    thinned,
)
from servesim.hardware.measured import CURVES, SUMS
from servesim.hardware.shapes import (
    Terms,
    batch_terms,
    count_of,
    kind_of,
    shape_of,
    size_terms,
)

Seconds = Mapping[Work, float]


@dataclass(frozen=True, slots=True)
class Line:
    """Errors of one family and way of predicting it, on kernels kept out of the fit."""

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
        measured: curves and sums by family and shape or kind.
        calibration: tables of the forms by name.
        errors: what was reached on kernels kept out.
        failure: why the forms could not be fitted; curves stand without them.
    """

    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: list[Line] = field(default_factory=list)
    failure: str = ""


def fit_all(
    device: Device,
    seconds: Seconds,
    source: str,
    progress: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """Curves by shape, and for all other work what suits the device.

    The forms of ``hardware/forms`` describe many cores that share every kernel in tiles and
    waves; a CPU's few cores work them off piece by piece, as sums do.
    """
    fitted = Fitted()
    _fit_curves(fitted, seconds)
    if device.kind == "cpu":
        _fit_batch_sums(fitted, seconds)
        _fit_size_sums(fitted, seconds)
        return fitted
    for result in _forms(fitted, device, seconds, progress):
        fitted.calibration[result.form] = as_table(result, source)
        if (t := result.total) is not None:
            family = result.form.partition(".")[0]
            line = Line(family, f"form {result.form}", t.kernels, t.median, t.p90, t.bias)
            fitted.errors.append(line)
    return fitted


def _fit_curves(fitted: Fitted, seconds: Seconds) -> None:
    for family in CURVES:
        errors: list[float] = []
        for shape, works in _grouped(family, seconds, shape_of).items():
            points = sorted((count_of(work), seconds[work]) for work in works)
            errors += left_out_errors(points)
            kept = [[_number(x), _short(y)] for x, y in thinned(points)]
            fitted.measured.setdefault(family, {})[shape] = kept
        if errors:
            fitted.errors.append(line_of(family, "curve of its shape", errors))


def _fit_batch_sums(fitted: Fitted, seconds: Seconds) -> None:
    """A sum for each shape of attention and recurrent mixers; a fifth kept out at a time."""
    for family in SUMS:
        errors: list[float] = []
        sharing: list[float] = []
        for shape, works in _grouped(family, seconds, shape_of).items():
            rows = [(batch_terms(work), seconds[work]) for work in works]
            if len(rows) > len(rows[0][0]):
                for i, error in held_out_sum_errors(rows, _sum).items():
                    (sharing if getattr(works[i], "repeated_keys", 0) else errors).append(error)
                fitted.measured.setdefault(family, {})[shape] = _rounded(_sum(rows))
        for how, found in (("sum of its shape", errors), ("the same, shared keys", sharing)):
            if found:
                fitted.errors.append(line_of(family, how, found))


def _fit_size_sums(fitted: Fitted, seconds: Seconds) -> None:
    """A sum for all shapes of a kind; one shape kept out at a time."""
    for family in (*CURVES, *SUMS):
        errors: list[float] = []
        for kind, works in _grouped(family, seconds, kind_of).items():
            rows = [(shape_of(work), size_terms(work), seconds[work]) for work in works]
            if len(rows) <= len(rows[0][1]):
                continue
            for left_out in sorted({shape for shape, _, _ in rows}):
                rest = [(terms, s) for shape, terms, s in rows if shape != left_out]
                if len(rest) > len(rows[0][1]):
                    tested = [(terms, s) for shape, terms, s in rows if shape == left_out]
                    errors += sum_errors(tested, _sum(rest))
            whole = _sum([(terms, s) for _, terms, s in rows])
            fitted.measured.setdefault(family, {})[kind] = _rounded(whole)
        if errors:
            fitted.errors.append(line_of(family, "sum of its kind", errors))


def _sum(rows: Sequence[tuple[Terms, float]]) -> dict[str, float]:
    """The sum of ``rows``; keys read again, where some are, cost no more than those read once."""
    found = fit_sum(rows)
    for name, once in (("repeated_keys", "decode_keys"), ("repeated_bytes", "decode_bytes")):
        if any(terms.get(name) for terms, _ in rows):
            found[name] = min(found.get(name, 0.0), found.get(once, 0.0))
    return found


def _grouped(family: str, seconds: Seconds, key: Callable[[Work], str]) -> dict[str, list[Work]]:
    found: dict[str, list[Work]] = {}
    for work in seconds:
        if work.family == family:
            found.setdefault(key(work), []).append(work)
    return found


def line_of(family: str, how: str, errors: Iterable[float]) -> Line:
    """The line of signed relative ``errors``, of which there are some."""
    signed = np.array(list(errors))
    median, p90 = np.quantile(np.abs(signed), (0.5, 0.9))
    return Line(family, how, len(signed), float(median), float(p90), float(np.median(signed)))


def _forms(
    fitted: Fitted, device: Device, seconds: Seconds, progress: Callable[[str], None]
) -> Sequence[FormResult]:
    rows = [row for work, s in seconds.items() for row in _rows(work, s)]
    try:
        return calibrate(device, rows, progress=progress)
    except InputError:  # too few kernels for any form
        return []
    except Exception as error:  # the device may not be at hand again: what is measured is kept
        fitted.failure = f"{type(error).__name__}: {error}"
        return []


def _rows(work: Work, seconds: float) -> list[Row]:
    """The row that `calibrate` fits a form to: attention only where it is of one kind."""
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
    return [Row(work, seconds, form, shape_of(work), regime=work.family)]


def _rounded(coefficients: Mapping[str, float]) -> dict[str, float]:
    return {name: _short(value) for name, value in coefficients.items()}


def _short(seconds: float) -> float:
    return float(f"{seconds:.4g}")


def _number(count: float) -> int | float:
    return int(count) if float(count).is_integer() else count
