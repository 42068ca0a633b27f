"""Finding measured collectives below a folder, in whichever layout they are."""

from __future__ import annotations

from pathlib import Path

from servesim.hardware.calibrate.collectives import (
    CollectiveSample,
    collective_files,
    has_collectives,
    read_kernel_tables,
)
from servesim.hardware.device import Device
from servesim.hardware.link import Link
from servesim.hardware.roofline import RooflineCost
from servesim.hardware.tables.collectives import has_runs, load_collectives
from servesim.hardware.tables.origin import device_names, require_device


def has_samples(place: Path) -> bool:
    """Whether ``place`` has something for :func:`collective_samples`."""
    return has_collectives(place) or has_runs(place)


def collective_samples(place: Path, link: Link, device: Device) -> list[CollectiveSample]:
    """What was measured of collectives among devices that ``link`` joins.

    Args:
        place: a folder with AIConfigurator's tables or, without those, with outputs of
            ``nccl-tests``; or one such file.

    Raises:
        InputError: there is nothing of the kind, a file is malformed, or another device was
            measured.
    """
    if has_collectives(place):
        require_device(device_names(collective_files(place)), device.name, place)
        return read_kernel_tables(place, link)
    table = load_collectives(place, link, RooflineCost(device))
    return [
        CollectiveSample(operation, ranks, payload, seconds)
        for operation, curves in table.measured.items()
        for ranks, curve in curves.curves.items()
        for payload, seconds in zip(curve.xs, curve.ys, strict=True)
    ]
