"""How many numbers device files rest on: a table for every case is a lookup, not a model."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from servesim.hardware.calibration_entry import NOTES
from servesim.hardware.collective_tables import COLLECTIVE_ERRORS
from servesim.hardware.load import device_names, load_device

#: The most fitted numbers a file may have, where formats and families are many.
MOST = {"rtx_pro_6000": 432, "b200_sxm": 354, "h100_sxm": 311, "h200_sxm": 287}
OTHERS = 200
NOT_FITTED = NOTES | {"borrow", "date", "most_bytes"} | set(COLLECTIVE_ERRORS)


def numbers(value: object) -> int:
    if isinstance(value, Mapping):
        return sum(numbers(part) for name, part in value.items() if name not in NOT_FITTED)
    return len(value) if isinstance(value, list) else int(isinstance(value, int | float))


@pytest.mark.parametrize("name", device_names())
def test_a_device_file_stays_small(name: str) -> None:
    tables = load_device(name).calibration
    assert numbers(tables) <= MOST.get(name, OTHERS)
