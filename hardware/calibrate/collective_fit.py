"""Fitting the ``[calibration.collective]`` table of a device file to measured collectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from servesim.errors import InputError
from servesim.hardware.all_reduce import CUSTOM, SYMMETRIC, counted
from servesim.hardware.calibrate.collectives import CollectiveSample
from servesim.hardware.collective_tables import COLLECTIVE_ERRORS
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

#: Switches and bends that are tried.
_SWITCHES = (*(2.0**i for i in range(14, 24)), math.inf)
_BENDS = tuple(i / 100 for i in range(-10, 6, 2))
#: Measurements of each number of ranks that a protocol needs.
_LEAST_ROWS = 2
#: Relative errors beyond this count with a falling weight (outliers).
_TOLERANCE = 0.05
_ROUNDS = 15
_COEFFICIENTS = ("latency", "byte", "ramp", "switch", "bulk_latency", "bulk_byte", "bend")


@dataclass(frozen=True, slots=True)
class CollectiveFit:
    """The form of one operation, with relative errors.

    Attributes:
        name: the operation as a device file names it.
        form: fitted to all measurements.
        fit_error: of the form, over all measurements.
        held_out_error: of the third size and every second one from there on but the last, by a
            form fitted to the second, the fourth and so on.
        held_out_ranks_error: of all numbers of ranks but the least and the greatest, by a form
            fitted to these two.
    """

    name: str
    form: CollectiveForm
    fit_error: tuple[float, ...]
    held_out_error: tuple[float, ...]
    held_out_ranks_error: tuple[float, ...]


def fit_collectives(
    samples: Iterable[CollectiveSample], bandwidth: float = math.inf
) -> list[CollectiveFit]:
    """One form for each operation, among devices whose link carries so many bytes/s.

    Raises:
        InputError: an operation was measured with too few sizes.
    """
    groups: dict[str, list[CollectiveSample]] = {}
    for sample in samples:
        groups.setdefault(sample.operation, []).append(sample)
    return [_fit(name, groups[name], bandwidth) for name in sorted(groups)]


def _fit(name: str, samples: Sequence[CollectiveSample], bandwidth: float) -> CollectiveFit:
    form = fitted_form(name, samples, bandwidth)
    sizes = sorted({s.payload_bytes for s in samples})
    kept, asked = sizes[1::2], sizes[2:-1:2]
    by_size = fitted_form(name, [s for s in samples if s.payload_bytes in kept], bandwidth)
    known = sorted({s.ranks for s in samples})
    ends = [s for s in samples if s.ranks in (known[0], known[-1])]
    inner = [s for s in samples if known[0] < s.ranks < known[-1]]
    return CollectiveFit(
        name,
        form,
        errors_of(form, samples),
        errors_of(by_size, [s for s in samples if s.payload_bytes in asked]),
        errors_of(fitted_form(name, ends, bandwidth) if inner else form, inner),
    )


def errors_of(form: CollectiveForm, samples: Sequence[CollectiveSample]) -> tuple[float, ...]:
    """Relative errors of ``form``."""
    return tuple(form.at(s.ranks, s.payload_bytes) / s.seconds - 1 for s in samples)


def fitted_form(
    name: str, samples: Sequence[CollectiveSample], bandwidth: float = math.inf
) -> CollectiveForm:
    """The form that comes nearest to ``samples`` of one operation, outliers damped.

    No coefficient falls with the ranks, but those of kernels that differ by ranks. The engine's
    two-shot takes what a link of ``bandwidth`` needs, and more (NCCL's may reduce in the switch).

    Raises:
        InputError: too few sizes to tell a latency from a time a byte.
    """
    if name == SYMMETRIC:
        return _lines(samples)
    switches = (0.0,) if name == CUSTOM else _SWITCHES
    found = [_with_switch(name, samples, switch, bandwidth) for switch in switches]
    forms = [form for form in found if form is not None]
    if not forms:
        sizes = len({s.payload_bytes for s in samples})
        raise InputError(f"{name}: {sizes} payload sizes are too few to fit a form to")
    # Of equals the latest switch: so libraries choose.
    return min(reversed(forms), key=lambda form: _left(np.array(errors_of(form, samples))))


def _with_switch(
    name: str, samples: Sequence[CollectiveSample], switch: float, bandwidth: float
) -> CollectiveForm | None:
    """The form with that switch; None if there is too little to either side of it."""
    operation = counted(name)
    low = [s for s in samples if s.payload_bytes < switch_bytes(switch, s.ranks)]
    bulk = [s for s in samples if s.payload_bytes >= switch_bytes(switch, s.ranks)]
    least = _LEAST_ROWS * len({s.ranks for s in samples}) if switch else _LEAST_ROWS
    if len(low) < least or 0 < len(bulk) < least:
        return None
    parts = _low(low)
    if bulk:
        own = name == CUSTOM
        most = bandwidth if own else math.inf
        found = [_bulk(bulk, b, WIRE[operation], most) for b in ((0.0,) if own else _BENDS)]
        parts |= min(found, key=lambda f: f[1])[0] | {"switch": switch}
    most = max(s.payload_bytes for s in samples)
    return CollectiveForm(operation, most_bytes=most, **parts)


def _lines(samples: Sequence[CollectiveSample]) -> CollectiveForm:
    """A latency and a time a byte for each number of ranks: each may have a kernel of its own."""
    latency, byte = {}, {}
    for ranks in sorted({s.ranks for s in samples}):
        own = [s for s in samples if s.ranks == ranks]
        basis = np.array([[1.0, s.payload_bytes] for s in own])
        latency[ranks], byte[ranks] = map(float, _positive(basis, own)[0])
    most = max(s.payload_bytes for s in samples)
    return CollectiveForm(counted(SYMMETRIC), latency, byte, most_bytes=most)


def _low(samples: Sequence[CollectiveSample]) -> dict[str, Any]:
    """Coefficients of the protocol for small payloads."""
    ends = _ends(samples)
    payload = np.array([s.payload_bytes for s in samples])
    shares = _shares(samples, ends, hops)
    ramp = payload / (payload + RAMP_BYTES)
    basis = np.column_stack([shares, ramp, shares * payload[:, None]])
    values, _ = _positive(basis, samples)
    count = len(ends)
    return {
        "latency": _by_ranks(ends, values[:count]),
        "ramp": float(values[count]),
        "byte": _by_ranks(ends, values[count + 1 :]),
    }


def _bulk(
    samples: Sequence[CollectiveSample],
    bend: float,
    wire: Callable[[int], float],
    bandwidth: float,
) -> tuple[dict[str, Any], float]:
    """Coefficients of the protocol for large payloads, and what they leave."""
    known, ends = sorted({s.ranks for s in samples}), _ends(samples)
    payload = np.array([s.payload_bytes for s in samples])
    size = payload * (payload / BULK_BYTES) ** bend
    basis = np.column_stack(
        [_shares(samples, ends, hops), _shares(samples, known, wire) * size[:, None]]
    )
    carried = np.array([wire(s.ranks) for s in samples]) * size / bandwidth
    values, left = _positive(basis, samples, carried)
    more = _by_ranks(known, values[len(ends) :])
    return {
        "bulk_latency": _by_ranks(ends, values[: len(ends)]),
        "bulk_byte": {ranks: wire(ranks) / bandwidth + one for ranks, one in more.items()},
        "bend": bend,
    }, left


def _ends(samples: Sequence[CollectiveSample]) -> list[int]:
    """The least and the greatest number of ranks."""
    known = {s.ranks for s in samples}
    return sorted({min(known), max(known)})


def _shares(
    samples: Sequence[CollectiveSample], known: Sequence[int], axis: Callable[[int], float]
) -> Floats:
    """How much of what each of ``known`` ranks adds to those before counts for each sample."""
    columns = [{r: float(r >= one) for r in known} for one in known]
    return np.array([[between(c, s.ranks, axis) for c in columns] for s in samples])


def _by_ranks(known: Sequence[int], added: Floats) -> dict[int, float]:
    """Values of which each has ``added`` to the one before."""
    return dict(zip(known, map(float, np.cumsum(added)), strict=True))


def _positive(
    basis: Floats, samples: Sequence[CollectiveSample], given: Floats | float = 0.0
) -> tuple[Floats, float]:
    """Positive coefficients with the least relative errors, outliers damped; what is left.

    ``given``: seconds of each sample beside what the coefficients tell.
    """
    from scipy.optimize import nnls

    seconds = np.array([s.seconds for s in samples])
    relative, target = basis / seconds[:, None], 1.0 - given / seconds
    scale = np.abs(relative).max(axis=0)
    scale[scale == 0.0] = 1.0
    weights = np.ones(len(samples))
    for _ in range(_ROUNDS):
        values = nnls(relative / scale * weights[:, None], target * weights)[0] / scale
        off = relative @ values - target
        weights = (1.0 + (off / _TOLERANCE) ** 2) ** -0.25
    return values, _left(off)


def _left(off: Floats) -> float:
    """What relative errors come to, outliers damped."""
    return float(np.sum(np.sqrt(1.0 + (off / _TOLERANCE) ** 2) - 1.0))


def to_toml(fits: Sequence[CollectiveFit], source: str) -> str:
    """The ``[calibration.collective]`` table of a device file."""
    lines = ["[calibration.collective]", f'source = "{source}"']
    for note in COLLECTIVE_ERRORS:
        parts = [f"{f.name} = {_summary(getattr(f, note))}" for f in fits if getattr(f, note)]
        if parts:
            lines.append(f"{note} = {{{', '.join(parts)}}}  # relative, median and p90")
    for fit in fits:
        lines += ["", f"[calibration.collective.{fit.name}]", *_coefficients(fit.form)]
    return "\n".join(lines) + "\n"


def _coefficients(form: CollectiveForm) -> Iterable[str]:
    for name in _COEFFICIENTS:
        value = getattr(form, name)
        if isinstance(value, Mapping):
            if value:
                parts = ", ".join(f"{ranks} = {one:.3g}" for ranks, one in value.items())
                yield f"{name} = {{{parts}}}"
        elif name == "switch":
            if value < math.inf:
                yield f"{name} = {value:.0f}"
        elif value:
            yield f"{name} = {value:.3g}"
    yield f"most_bytes = {form.most_bytes:.0f}"


def pooled_error(fits: Iterable[CollectiveFit]) -> dict[str, float]:
    """Held-out errors of all operations and numbers of ranks together, as a device file notes."""
    errors = np.concatenate([fit.held_out_error for fit in fits])
    sizes = np.abs(errors)
    values = {"median": np.median(sizes), "p90": np.quantile(sizes, 0.9), "bias": np.median(errors)}
    return {"kernels": len(errors)} | {name: round(float(v), 4) for name, v in values.items()}


def _summary(errors: Sequence[float]) -> str:
    sizes = np.abs(errors)
    return f"[{np.median(sizes):.3f}, {np.quantile(sizes, 0.9):.3f}]"
