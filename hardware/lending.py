"""What a device without measurements of its own takes from another's calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.calibrated import FORMS, CalibratedCost
from servesim.hardware.calibration_entry import Entry
from servesim.hardware.cost import Source
from servesim.hardware.device import Device
from servesim.hardware.forms.keys import form_kind
from servesim.hardware.forms.moe import MoeForm
from servesim.hardware.load import load_sheet

#: Under ``borrow``: families that are not named.
_OTHER = "other"
_ATTENTION = ("decode", "prefill")


def borrow(
    entries: dict[str, dict[str, Entry]], given: Any, device: Device, families: Collection[str]
) -> None:
    """Fill the gaps of ``entries`` with those of the device, or the devices by family, named.

    Two devices may each lend what the other lacks: of a lender only what it lends is read.

    Args:
        entries: those of ``device``, by family and key.
        given: ``borrow`` of its calibration: a device's name, or one by family.
        families: those to fill.

    Raises:
        UnknownNameError: no such family or device.
        InputError: what it names is no device with a calibration, or leads back to ``device``.
    """
    lenders = given if isinstance(given, Mapping) else {_OTHER: given}
    for family in lenders:
        if family not in (*FORMS, _OTHER):
            raise UnknownNameError(f"family of {device.name}: borrow", family, [*FORMS, _OTHER])
    for name in lenders.values():
        if not isinstance(name, str):
            raise InputError(f"{device.name}: borrow takes names of devices, not {name!r}")
    asked: dict[str, list[str]] = {}
    for family in entries:
        name = lenders.get(family, lenders.get(_OTHER))
        if name is not None and family in families:
            asked.setdefault(name, []).append(family)
    for name, lent in asked.items():
        lender = _lender(name, device, lent)
        for family in lent:
            _lend(family, entries[family], lender, device)


def _lender(name: str, borrower: Device, families: Collection[str]) -> CalibratedCost:
    """The costs that the device ``name`` lends."""
    sheet = load_sheet(name)
    model = sheet.costs
    if model is None and (tables := {**sheet.calibration}):
        tables.pop("collective", None)
        try:
            model = CalibratedCost.from_coefficients(sheet, tables, families)
        except RecursionError as error:
            raise InputError(f"{borrower.name}: borrow {name!r} leads back to itself") from error
    if not isinstance(model, CalibratedCost):
        raise InputError(f"calibration borrows from {name}, which has no calibration")
    return model


def _lend(family: str, mine: dict[str, Entry], lender: CalibratedCost, device: Device) -> None:
    """Fill the gaps in ``mine``, the entries of ``device``, with what ``lender`` has.

    Attention is lent by kind alone (plain, latent, expanded): where a device has any of it, that
    is nearer to its other widths and formats than what another device has of them.
    """
    known = {form_kind(family, key) for key in mine} if family in _ATTENTION else set()
    for key, entry in lender.entries[family].items():
        if form_kind(family, key) not in known:
            mine.setdefault(key, as_lent(entry, lender.device, device))


def as_lent(entry: Entry, lender: Device, borrower: Device) -> Entry:
    """``entry`` of ``lender`` as it serves ``borrower``; with its cores if of another kind."""
    alike = lender.kind == borrower.kind
    cores = entry.cores or (0 if alike else lender.cores)
    form = entry.form
    if isinstance(form, MoeForm):
        form = form.lent(_pace(lender, borrower, cores))
    return dataclasses.replace(entry, form=form, source=Source.ANALYTICAL, cores=cores)


def _pace(lender: Device, borrower: Device, cores: int) -> float:
    """Peak arithmetic in 16 bits of a core of ``lender``, of that of one of ``borrower``.

    ``cores`` are those that both count as having, 0 for their own. One core is a data sheet that
    does not say how many: nothing then tells what each of them can.
    """
    theirs, mine = cores or lender.cores, cores or borrower.cores
    if theirs != mine and 1 in (theirs, mine):
        return 1.0
    return _peak_of_16_bits(lender) * mine / (_peak_of_16_bits(borrower) * theirs)


def _peak_of_16_bits(device: Device) -> float:
    """Peak FLOP/s in 16 bits; the least of all formats where it has none."""
    peaks = [device.peak_flops[name] for name in ("bf16", "fp16") if name in device.peak_flops]
    return max(peaks or [min(device.peak_flops.values())])
