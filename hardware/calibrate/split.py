"""Measured kernels of a device by form: those a fit may see, and those it is judged by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from servesim.graph.work import AttentionWork, GemmWork
from servesim.hardware.calibrate.fit import thinned
from servesim.hardware.calibrate.row import Row, held_out
from servesim.hardware.device import Device
from servesim.hardware.forms.prefill import decodes_as_blocks

#: Regimes no serving system meets, or whose measurement depends on the benchmark's own caching:
#: reported, not fitted.
OUTSIDE = ("outside serving sizes", "weights partly in cache", "partly in cache")
#: How far clocks may exceed those of the data sheet's peak.
_BOOST = 1.15
#: Held-out rows an error table looks at, for each form.
_MOST_TESTED = 6000


@dataclass(frozen=True)
class Split:
    """The rows of one form.

    Attributes:
        kept: all rows of models that a fit may see.
        fitting: those of them that it does see.
        tested: those it is judged by: of models kept out, else of shapes kept out.
    """

    kept: Sequence[Row]
    fitting: Sequence[Row]
    tested: Sequence[Row]


def split(rows: Sequence[Row], exclude_models: Collection[str]) -> Split:
    """``rows`` of one form, by model and by shape."""
    kept = [row for row in rows if row.model not in exclude_models]
    kept_out = _held_out_shapes(kept)
    fitting = [row for row in serving(kept) if row.shape not in kept_out]
    tested = [row for row in rows if row.model in exclude_models]
    if not tested:
        tested = [row for row in kept if row.shape in kept_out]
    return Split(kept, fitting, thinned(tested, _MOST_TESTED, seed=1))


def serving(rows: Sequence[Row]) -> list[Row]:
    """Those of ``rows`` that are of regimes that a serving system meets."""
    return [row for row in rows if not row.regime.startswith(OUTSIDE)]


def by_form(device: Device, rows: Sequence[Row], joint: bool = False) -> dict[str, list[Row]]:
    """Believable ``rows`` by the form that is fitted to them, in sorted order.

    Those in formats that ``device`` does not compute in are left out.

    ``joint``: attention of mixed batches, and some decodes, run as blocks of the prefill kernel.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        form = row.form
        work = row.work
        if work.dtype not in device.peak_flops:
            continue
        if isinstance(work, AttentionWork) and is_joint(form, joint) and decodes_as_blocks(work):
            form = form.replace("decode.", "prefill.")
        groups.setdefault(form, []).append(replace(row, form=form))
    return {form: _believable(groups[form], device) for form in sorted(groups)}


def is_joint(form: str, joint: bool) -> bool:
    """Whether ``joint`` holds of ``form``: 8-bit caches and latents need other kernels."""
    return joint and not form.endswith("latent") and ".fp8" not in form


def _believable(rows: Sequence[Row], device: Device) -> list[Row]:
    """``rows`` that stay below the device's peaks; none of a table that often does not.

    A table where every tenth kernel beats peak arithmetic measured something else than it says.
    Products whose weights came faster than memory delivers were fused with their neighbours.
    """
    possible = [
        row
        for row in rows
        if row.work.flops <= _BOOST * device.flops_for(row.work.dtype) * row.seconds
    ]
    if len(possible) < 0.9 * len(rows):
        return []
    return [
        row
        for row in possible
        if not isinstance(row.work, GemmWork)
        or (1.0 - row.resident) * row.work.weight_bytes
        <= _BOOST * device.memory.bandwidth * row.seconds
    ]


def _held_out_shapes(rows: Sequence[Row]) -> set[str]:
    """Shapes kept out of the fit; every fifth where chance would keep none or all of them."""
    shapes = sorted({row.shape for row in rows if row.shape})
    chosen = {shape for shape in shapes if held_out(shape)}
    return chosen if 0 < len(chosen) < len(shapes) else set(shapes[4::5])
