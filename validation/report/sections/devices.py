"""What the costs of every device rest on."""

from __future__ import annotations

from pathlib import Path

from servesim.hardware.load import device_names, load_sheet
from servesim.hardware.standing import CALIBRATED, FAMILIES, standing
from servesim.validation.report.markdown import folded, table

ORDER = 24
TITLE = "What the costs of a device rest on"

_INTRODUCTION = """\
By family: `calibrated` on kernels measured on the device itself; lent by the device named, relative
to peaks; or its data sheet (`servesim devices`; with a device's name, also the sizes each form was
fitted on, beyond which costs count as extrapolated). Layer tables of the A6000 have no decode
attention as engines run it, and those of the TPU v6e are of one model and no more than 2048 tokens:
ordinary decodes (64 of 4096 tokens) and prefills of 4096 tokens are extrapolated there."""


def body(data: Path) -> str:
    """A line for each device with measurements of its own, then the others; from device files."""
    lines = {name: standing(load_sheet(name)) for name in device_names()}
    own = {name: bases for name, bases in lines.items() if CALIBRATED in bases.values()}
    rows = [[name, *(bases[family] for family in FAMILIES)] for name, bases in lines.items()]
    heads = ("device", *FAMILIES.values())
    return "\n\n".join(
        [
            _INTRODUCTION,
            table(heads, [row for row in rows if row[0] in own], text=len(heads)),
            folded(
                f"{len(rows) - len(own)} devices without measurements",
                table(heads, [row for row in rows if row[0] not in own], text=len(heads)),
            ),
        ]
    )
