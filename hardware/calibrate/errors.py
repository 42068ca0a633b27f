"""How far predictions are from measurements, by part of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from servesim.hardware.calibrate.row import Row


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """Relative errors of one part of the measurements of a form.

    Attributes:
        kernels: measurements in it.
        median, p90: of the absolute relative error.
        bias: median of the signed relative errors.
        mean: mean relative error.
    """

    form: str
    origin: str
    regime: str
    kernels: int
    median: float
    p90: float
    bias: float
    mean: float


def error_line(
    rows: Sequence[Row], predict: Callable[[Row], float], origin: str, regime: str
) -> ErrorLine:
    """The errors of ``predict`` on ``rows`` (not empty)."""
    errors = [predict(row) / row.seconds - 1.0 for row in rows]
    sizes = sorted(map(abs, errors))
    return ErrorLine(
        form=rows[0].form,
        origin=origin,
        regime=regime,
        kernels=len(rows),
        median=_quantile(sizes, 0.5),
        p90=_quantile(sizes, 0.9),
        bias=sorted(errors)[len(errors) // 2],
        mean=sum(errors) / len(errors),
    )


def error_lines(rows: Sequence[Row], predict: Callable[[Row], float]) -> Iterable[ErrorLine]:
    """One line for every (origin, regime) of ``rows``, in sorted order."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.origin, row.regime), []).append(row)
    for (origin, regime), group in sorted(groups.items()):
        yield error_line(group, predict, origin, regime)


def note(line: ErrorLine) -> dict[str, float]:
    """``line`` as it stands in a device file."""
    errors = {name: round(getattr(line, name), 4) for name in ("median", "p90", "bias")}
    return {"kernels": line.kernels, **errors}


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
