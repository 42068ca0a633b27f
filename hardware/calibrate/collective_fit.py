"""Fitting the ``[calibration.collective]`` table of a device file to measured collectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from servesim.hardware.calibrate.collectives import CollectiveSample
from servesim.hardware.collectives import WIRE
from servesim.hardware.forms.collective import (
    BULK_BYTES,
    RAMP_BYTES,
    CollectiveForm,
    between,
    hops,
    switch_bytes,
)

Floats = npt.NDArray[np.float64]

_CUSTOM = "custom_all_reduce"
#: Switches and bends that are tried.
_SWITCHES = (*(2.0**i for i in range(14, 24)), math.inf)
_BENDS = tuple(i / 100 for i in range(-10, 6, 2))
#: Measurements of each number of ranks that a protocol needs.
_LEAST_ROWS = 2
#: Relative errors beyond this count with a falling weight (outliers).
_TOLERANCE = 0.05
_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class CollectiveFit:
    """The form of one operation, with relative errors.

    Attributes:
        name: the operation as a device file names it.
        form: fitted to all measurements.
        most_bytes: the largest payload measured.
        fit_error: of the form, over all measurements.
        held_out_error: of every second size, by a form fitted to the others.
        held_out_ranks_error: of all numbers of ranks but the least and the greatest, by a form
            fitted to these two.
    """

    name: str
    form: CollectiveForm
    most_bytes: float
    fit_error: tuple[float, ...]
    held_out_error: tuple[float, ...]
    held_out_ranks_error: tuple[float, ...]


def fit_collectives(samples: Iterable[CollectiveSample]) -> list[CollectiveFit]:
    """One form for each operation."""
    groups: dict[str, list[CollectiveSample]] = {}
    for sample in samples:
        groups.setdefault(sample.operation, []).append(sample)
    return [_fit(name, groups[name]) for name in sorted(groups)]


def _fit(name: str, samples: Sequence[CollectiveSample]) -> CollectiveFit:
    form = fitted_form(name, samples)
    sizes = sorted({s.payload_bytes for s in samples})
    kept, asked = sizes[1::2], sizes[2:-1:2]
    by_size = fitted_form(name, [s for s in samples if s.payload_bytes in kept])
    known = sorted({s.ranks for s in samples})
    ends = known[0], known[-1]
    inner = [s for s in samples if s.ranks not in ends]
    by_ranks = fitted_form(name, [s for s in samples if s.ranks in ends]) if inner else form
    return CollectiveFit(
        name,
        form,
        sizes[-1],
        _errors(form, samples),
        _errors(by_size, [s for s in samples if s.payload_bytes in asked]),
        _errors(by_ranks, inner),
    )


def _errors(form: CollectiveForm, samples: Sequence[CollectiveSample]) -> tuple[float, ...]:
    return tuple(form.at(s.ranks, s.payload_bytes) / s.seconds - 1 for s in samples)


def fitted_form(name: str, samples: Sequence[CollectiveSample]) -> CollectiveForm:
    """The form that comes nearest to ``samples`` of one operation, outliers damped."""
    operation = name.removeprefix("custom_")
    least_rows = _LEAST_ROWS * len({s.ranks for s in samples})
    forms: list[tuple[float, CollectiveForm]] = []
    for switch in (0.0,) if name == _CUSTOM else _SWITCHES:
        low = [s for s in samples if s.payload_bytes < switch_bytes(switch, s.ranks)]
        bulk = [s for s in samples if s.payload_bytes >= switch_bytes(switch, s.ranks)]
        if switch and (len(low) < least_rows or 0 < len(bulk) < least_rows):
            continue
        parts, cost = _low(low)
        if bulk:
            bends = (0.0,) if name == _CUSTOM else _BENDS
            found = [_bulk(bulk, bend, WIRE[operation]) for bend in bends]
            more, bulk_cost = min(found, key=lambda f: f[1])
            parts, cost = parts | more, cost + bulk_cost
        forms.append((cost, CollectiveForm(operation, switch=switch, **parts)))
    # Of equals the latest switch: so libraries choose.
    return min(reversed(forms), key=lambda found: found[0])[1]


def _low(samples: Sequence[CollectiveSample]) -> tuple[dict[str, Any], float]:
    """Coefficients of the protocol for small payloads, and what they leave."""
    known = sorted({s.ranks for s in samples})
    ends = sorted({known[0], known[-1]})
    payload = np.array([s.payload_bytes for s in samples])
    shares = _shares(samples, ends, hops)
    ramp = payload / (payload + RAMP_BYTES)
    basis = np.column_stack([shares, ramp, shares * payload[:, None]])
    values, cost = _positive(basis, samples)
    count = len(ends)
    return {
        "latency": dict(zip(ends, values, strict=False)),
        "ramp": values[count],
        "byte": dict(zip(ends, values[count + 1 :], strict=True)),
    }, cost


def _bulk(
    samples: Sequence[CollectiveSample], bend: float, wire: Callable[[int], float]
) -> tuple[dict[str, Any], float]:
    """Coefficients of the protocol for large payloads, and what they leave."""
    known = sorted({s.ranks for s in samples})
    ends = sorted({known[0], known[-1]})
    payload = np.array([s.payload_bytes for s in samples])
    size = payload * (payload / BULK_BYTES) ** bend
    basis = np.column_stack(
        [_shares(samples, ends, hops), _shares(samples, known, wire) * size[:, None]]
    )
    values, cost = _positive(basis, samples)
    return {
        "bulk_latency": dict(zip(ends, values, strict=False)),
        "bulk_byte": dict(zip(known, values[len(ends) :], strict=True)),
        "bend": bend,
    }, cost


def _shares(
    samples: Sequence[CollectiveSample], known: Sequence[int], axis: Callable[[int], float]
) -> Floats:
    """How much the value at each of ``known`` ranks counts for each sample."""
    columns = [{r: float(r == one) for r in known} for one in known]
    return np.array([[between(c, s.ranks, axis) for c in columns] for s in samples])


def _positive(basis: Floats, samples: Sequence[CollectiveSample]) -> tuple[list[float], float]:
    """Positive coefficients with the least relative errors, outliers damped; what is left."""
    from scipy.optimize import nnls

    relative = basis / np.array([[s.seconds] for s in samples])
    scale = np.abs(relative).max(axis=0)
    scale[scale == 0.0] = 1.0
    weights = np.ones(len(samples))
    for _ in range(_ROUNDS):
        values = nnls(relative / scale * weights[:, None], weights)[0] / scale
        off = relative @ values - 1.0
        weights = (1.0 + (off / _TOLERANCE) ** 2) ** -0.25
    cost = np.sum(np.sqrt(1.0 + (off / _TOLERANCE) ** 2) - 1.0)
    return [float(v) for v in values], float(cost)


def to_toml(fits: Sequence[CollectiveFit], source: str) -> str:
    """The ``[calibration.collective]`` table of a device file."""
    lines = ["[calibration.collective]", f'source = "{source}"']
    lines.append(f"most_bytes = {max(fit.most_bytes for fit in fits):.0f}")
    for note in ("fit_error", "held_out_error", "held_out_ranks_error"):
        parts = [f"{f.name} = {_summary(getattr(f, note))}" for f in fits if getattr(f, note)]
        if parts:
            lines.append(f"{note} = {{{', '.join(parts)}}}  # relative, median and p90")
    for fit in fits:
        lines += ["", f"[calibration.collective.{fit.name}]", *_coefficients(fit.form)]
    return "\n".join(lines) + "\n"


def _coefficients(form: CollectiveForm) -> Iterable[str]:
    for name in ("latency", "byte", "ramp", "switch", "bulk_latency", "bulk_byte", "bend"):
        value = getattr(form, name)
        if isinstance(value, Mapping):
            value = ", ".join(f"{ranks} = {one:.3g}" for ranks, one in value.items())
            value = f"{{{value}}}" if value else ""
        elif value:
            value = f"{value:.0f}" if name == "switch" else f"{value:.3g}"
        if value:
            yield f"{name} = {value}"


def pooled_error(fits: Iterable[CollectiveFit]) -> dict[str, float]:
    """Held-out errors of all operations and numbers of ranks together, as a device file notes."""
    errors = np.concatenate([fit.held_out_error for fit in fits])
    sizes = np.abs(errors)
    values = {"median": np.median(sizes), "p90": np.quantile(sizes, 0.9), "bias": np.median(errors)}
    return {"kernels": len(errors)} | {name: round(float(v), 4) for name, v in values.items()}


def _summary(errors: Sequence[float]) -> str:
    sizes = np.abs(errors)
    return f"[{np.median(sizes):.3f}, {np.quantile(sizes, 0.9):.3f}]"
