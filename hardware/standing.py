"""What the costs of a device rest on, family by family."""

from __future__ import annotations

from collections.abc import Mapping

from servesim.hardware.device import Device
from servesim.hardware.forms.keys import form_kind
from servesim.hardware.load import load_sheet

COLLECTIVE = "collective"
#: Families of costs, those of the forms and collectives, and what tables of them call them.
FAMILIES = {
    "gemm": "products",
    "decode": "decode",
    "prefill": "prefill",
    "moe": "experts",
    "recurrent": "recurrent",
    "memory": "memory",
    COLLECTIVE: "links",
}
#: Costs rest on tables of the device's own: as they stand, or through fitted forms.
MEASURED, CALIBRATED = "measured", "calibrated"
#: They follow from the data sheet alone, from the timing of DRAM, or from Python.
SHEET, TIMING, PYTHON = "data sheet", "DRAM timing", "own model"
_ATTENTION = {"decode": "attention", "prefill": "attention"}


def standing(device: Device) -> dict[str, str]:
    """What each of ``FAMILIES`` rests on: one of the words above, or the name of a lender.

    Of attention the plain kind, as a device may have measurements of latent attention alone; of
    collectives those over its own link to peers, which was not measured unless it has peer access.
    """
    return {family: _basis(device, family) for family in FAMILIES}


def is_own(basis: str) -> bool:
    """Whether a ``basis`` is measurements of the device itself."""
    return basis in (MEASURED, CALIBRATED)


def is_lent(basis: str) -> bool:
    """Whether a ``basis`` is another device's name."""
    return basis not in (MEASURED, CALIBRATED, SHEET, TIMING, PYTHON)


def _basis(device: Device, family: str) -> str:
    link = device.peer_link
    if family == COLLECTIVE and not (link and link.peer_access):
        return SHEET
    if _ATTENTION.get(family, family) in device.measured:
        return MEASURED
    if _has(device.calibration, family):
        return CALIBRATED
    if device.pim and family == "decode":
        return TIMING
    if device.costs and not (device.pim or device.measured or device.calibration):
        return SHEET if family == COLLECTIVE else PYTHON
    return _lender(device.calibration, family)


def _has(calibration: Mapping[str, object], family: str) -> bool:
    """Whether ``calibration`` has tables of ``family``, of its plain kind."""
    tables = calibration.get(family)
    if not isinstance(tables, Mapping) or "borrow" in tables:
        return False
    return family not in _ATTENTION or any(form_kind(family, key) == family for key in tables)


def _lender(calibration: Mapping[str, object], family: str) -> str:
    """The device at the end of what is borrowed, the data sheet where there is none."""
    place: object = calibration
    if family == COLLECTIVE:
        place = calibration.get(family, {})
    borrow = place.get("borrow") if isinstance(place, Mapping) else None
    name = borrow.get(family, borrow.get("other")) if isinstance(borrow, Mapping) else borrow
    if name is None:
        return SHEET
    lender = load_sheet(str(name))
    basis = _basis(lender, family)
    return lender.name if is_own(basis) else basis
