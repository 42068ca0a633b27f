"""Fitting the ``[calibration.collective]`` table of a device file to measured collectives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from servesim.errors import InputError

Floats = npt.NDArray[np.float64]

#: Payloads the fitted curves bend at: every factor of four from 2 KiB to 512 MiB.
SIZES = tuple(2**i for i in range(11, 31, 2))
#: The engine's own all-reduce is used up to 8 MiB.
CUSTOM_SIZES = SIZES[:7]
#: Relative errors up to here count in full, larger ones with a falling weight (outliers).
TOLERANCE = 0.03
_NCCL, _CUSTOM = "nccl_perf.parquet", "custom_allreduce_perf.parquet"


@dataclass(frozen=True, slots=True)
class CollectiveSample:
    """One measured collective; the payload counts as in ``CollectiveWork``."""

    operation: str
    ranks: int
    payload_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class CollectiveFit:
    """Fitted seconds at ``SIZES`` of one operation and number of ranks, with relative errors.

    Attributes:
        fit_error: of the fit, over its own samples.
        held_out_error: of every second size, predicted from the sizes between.
    """

    operation: str
    ranks: int
    seconds: tuple[float, ...]
    fit_error: tuple[float, ...]
    held_out_error: tuple[float, ...]


def has_collectives(folder: Path) -> bool:
    """Whether there are tables for :func:`read_kernel_tables`."""
    return bool(_tables(folder, _NCCL) or _tables(folder, _CUSTOM))


def _tables(place: Path, name: str) -> list[Path]:
    """``place`` itself, or the tables called ``name`` in it or one folder below."""
    if place.is_file():
        return [place] if place.name == name else []
    return sorted([*place.glob(name), *place.glob(f"*/{name}")])


def read_kernel_tables(folder: Path, peers_on_host_link: bool) -> list[CollectiveSample]:
    """Samples from AIConfigurator's tables ``nccl_perf`` and ``custom_allreduce_perf``.

    ``message_size`` counts elements. Rows of 16-bit elements are taken, the engine's all-reduce
    as replayed in a CUDA graph. Over a host link vLLM uses its own all-reduce for two devices
    only: the other rows are NCCL again.

    Raises:
        InputError: there are no such tables.
    """
    import pyarrow.parquet as pq

    if not has_collectives(folder):
        raise InputError(f"{folder}: no collective tables ({_NCCL} or {_CUSTOM})")
    names = {"alltoall": "all_to_all"}
    samples = []
    for path in _tables(folder, _NCCL):
        for row in pq.read_table(path).to_pylist():
            if row["nccl_dtype"] == "half":
                operation = names.get(row["op_name"], row["op_name"])
                samples.append(_sample(operation, row))
    for path in _tables(folder, _CUSTOM):
        for row in pq.read_table(path).to_pylist():
            small = row["message_size"] * 2 < CUSTOM_SIZES[-1]
            used = row["num_gpus"] == 2 or not peers_on_host_link
            if row["backend"] == "vllm_graph" and small and used:
                samples.append(_sample("custom_all_reduce", row))
    return samples


def _sample(operation: str, row: dict[str, float]) -> CollectiveSample:
    payload, seconds = row["message_size"] * 2, row["latency"] * 1e-3
    return CollectiveSample(operation, int(row["num_gpus"]), payload, seconds)


def fit_collectives(samples: Iterable[CollectiveSample]) -> list[CollectiveFit]:
    """One linear spline over the payload for each operation and number of ranks."""
    groups: dict[tuple[str, int], list[CollectiveSample]] = {}
    for sample in samples:
        groups.setdefault((sample.operation, sample.ranks), []).append(sample)
    return [_fit(*key, groups[key]) for key in sorted(groups)]


def _fit(operation: str, ranks: int, samples: list[CollectiveSample]) -> CollectiveFit:
    knots = CUSTOM_SIZES if operation == "custom_all_reduce" else SIZES
    ordered = sorted(samples, key=lambda s: s.payload_bytes)
    payload = np.array([s.payload_bytes for s in ordered])
    seconds = np.array([s.seconds for s in ordered])
    fitted = _spline(payload, seconds, knots)
    errors = _hats(payload, knots) @ fitted / seconds - 1
    kept = slice(1, None, 2)
    between = np.interp(payload, payload[kept], seconds[kept])[2:-1:2]
    held_out = between / seconds[2:-1:2] - 1
    as_floats = (tuple(map(float, a)) for a in (fitted, errors, held_out))
    return CollectiveFit(operation, ranks, *as_floats)


def _spline(x: Floats, y: Floats, knots: Sequence[float]) -> Floats:
    """Values at ``knots`` of the linear spline with the least relative errors, outliers damped."""
    basis = _hats(x, knots)
    weights = 1 / y
    for _ in range(30):
        values = np.linalg.lstsq(basis * weights[:, None], y * weights, rcond=None)[0]
        off = np.abs(basis @ values / y - 1)
        weights = 1 / y / np.sqrt(np.maximum(off, TOLERANCE))
    return np.asarray(values)


def _hats(x: Floats, knots: Sequence[float]) -> Floats:
    """Weights of the knots in the value of a linear spline at each x; constant below the first."""
    at = np.asarray(knots, dtype=float)
    x = np.maximum(x, at[0])
    cell = np.clip(np.searchsorted(at, x, side="right") - 1, 0, len(at) - 2)
    upper = (x - at[cell]) / (at[cell + 1] - at[cell])
    basis = np.zeros((len(x), len(at)))
    rows = np.arange(len(x))
    basis[rows, cell] = 1 - upper
    basis[rows, cell + 1] = upper
    return basis


def to_toml(fits: Sequence[CollectiveFit], source: str) -> str:
    """The ``[calibration.collective]`` table of a device file."""
    operations = sorted({fit.operation for fit in fits})
    of = {operation: [f for f in fits if f.operation == operation] for operation in operations}
    lines = ["[calibration.collective]", f'source = "{source}"']
    lines.append(f"sizes = [{', '.join(str(size) for size in SIZES)}]  # bytes")
    for name in ("fit_error", "held_out_error"):
        parts = ", ".join(f"{op} = {_summary(name, of[op])}" for op in operations)
        lines.append(f"{name} = {{ {parts} }}  # relative, median and p90")
    for operation in operations:
        lines += ["", f"[calibration.collective.{operation}]  # microseconds by size"]
        for fit in of[operation]:
            row = ", ".join(f"{t * 1e6:.4g}" for t in fit.seconds)
            lines.append(f"ranks_{fit.ranks} = [{row}]")
    return "\n".join(lines) + "\n"


def pooled_error(fits: Iterable[CollectiveFit]) -> dict[str, float]:
    """Held-out errors of all operations and numbers of ranks together, as a device file notes."""
    errors = np.concatenate([fit.held_out_error for fit in fits])
    sizes = np.abs(errors)
    values = {"median": np.median(sizes), "p90": np.quantile(sizes, 0.9), "bias": np.median(errors)}
    return {"kernels": len(errors)} | {name: round(float(v), 4) for name, v in values.items()}


def _summary(name: str, fits: Sequence[CollectiveFit]) -> str:
    errors = np.abs(np.concatenate([getattr(fit, name) for fit in fits]))
    return f"[{np.median(errors):.3f}, {np.quantile(errors, 0.9):.3f}]"
