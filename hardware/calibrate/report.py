"""The table of held-out errors, as text."""

from __future__ import annotations

from collections.abc import Sequence

from servesim.hardware.calibrate.errors import ErrorLine
from servesim.hardware.calibrate.run import FormResult

#: What a form should reach on kernels kept out of its fit: median and 90th percentile of the
#: absolute error, and the size of the median error.
MEDIAN, P90, BIAS = 0.05, 0.15, 0.01

_HEAD = (
    "| device | form | part | kernels | median | p90 | bias | within 5 / 15 / 1 % |\n"
    "|---|---|---|--:|--:|--:|--:|---|\n"
)


def report_text(device: str, results: Sequence[FormResult]) -> str:
    """A Markdown table: one bold line a form, then its parts."""
    lines = [_HEAD.rstrip("\n")]
    for result in results:
        if result.total is not None:
            lines.append(_line(device, result.total, bold=True))
        lines += [_line(device, line) for line in result.held_out]
    return "\n".join(lines) + "\n"


def _line(device: str, line: ErrorLine, bold: bool = False) -> str:
    mark = "**" if bold else ""
    part = "serving, all tables" if bold else f"{line.origin}: {line.regime}"
    met = (
        ("median", line.median <= MEDIAN),
        ("p90", line.p90 <= P90),
        ("bias", abs(line.bias) <= BIAS),
    )
    missed = [name for name, reached in met if not reached]
    verdict = "yes" if not missed else "no: " + ", ".join(missed)
    return (
        f"| {device} | {mark}{line.form}{mark} | {part} | {line.kernels} "
        f"| {100 * line.median:.1f} % | {100 * line.p90:.1f} % | {100 * line.bias:+.1f} % "
        f"| {verdict} |"
    )
