"""Kernels kept out of the fits of the calibrated cost models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from servesim.hardware.calibrate.report import BIAS, MEDIAN, P90
from servesim.hardware.load import DEVICES, read_toml
from servesim.validation.held_out import DEVICE_FILES
from servesim.validation.report.markdown import percent, signed, table

ORDER = 25
TITLE = "Kernels kept out of their fit"

_HEADS = ("", "form", "kernels", "median", "p90", "bias")
_SHAPES = """\
Errors of the calibrated cost models on kernels whose shape (weight matrix, attention geometry,
expert layout) never entered the fit, as the device files note them: median and 90th percentile of
the absolute error, and the median signed error as bias. Aimed at: 5 %, 15 % and 1 %. In neither
the fits nor these lines: products with more than 8192 rows or a side under 512, decodes of more
than 256 sequences or 32,768 keys, expert widths that are no multiple of 64, more than 32
expert-parallel ranks, and benchmarks whose weights or caches stayed partly in the last-level cache
or that do not tell which experts they touched (A100: a power law over ranks of under 32 pairs).
Times of a table are first brought to the scale of serving, as the device file notes under
`origins`: table = factor x serving + offset. Products launched over and over take 2.4 us less than
in a model, measured where both ways exist (RTX PRO 6000) and assumed elsewhere. Latent attention
(`latent`, and `expanded` for prefills) is what whole modules take beyond the products and norms
around it, as these forms predict them. What nothing measured on a device tells is `borrowed` in its
file. Forms that rest on too few shapes to keep any out are not listed."""
_MODELS = """\
Coefficients fitted without any layer latency of the model; errors on all of its layers, at one and
two ranks. Prefill includes mixed batches."""


def body(data: Path) -> str:
    """Errors by device and form, then with a whole model kept out; from committed files alone."""
    files = {path.stem: path for path in sorted(DEVICES.glob("*.toml"))}
    devices = [line for name, path in files.items() for line in _lines(name, path)]
    models = [line for name, path in DEVICE_FILES.items() for line in _lines(name, path)]
    return "\n\n".join(
        [
            _SHAPES,
            _summary(devices),
            table(("device", *_HEADS[1:]), devices, text=2),
            "### A whole model kept out, RTX PRO 6000",
            _MODELS,
            table(("model", *_HEADS[1:]), models, text=2),
        ]
    )


def _lines(name: str, path: Path) -> Iterator[list[str]]:
    """A line for each form of a device file that notes held-out errors."""
    for family, forms in sorted(read_toml(path).get("calibration", {}).items()):
        if family == "collective" or not isinstance(forms, dict):
            continue
        for key, form in sorted(forms.items()):
            if "held_out" in form:
                errors = form["held_out"]
                yield [
                    name,
                    f"{family}.{key}",
                    str(errors["kernels"]),
                    percent(errors["median"], MEDIAN),
                    percent(errors["p90"], P90),
                    signed(errors["bias"], BIAS),
                ]


def _summary(lines: list[list[str]]) -> str:
    met = sum(not any("missed" in cell for cell in line) for line in lines)
    return f"{met} of {len(lines)} forms meet all three aims."
