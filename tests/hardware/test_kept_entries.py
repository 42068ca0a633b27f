"""What ``calibrate --only`` keeps of a device file is what it was, whatever is fitted beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from servesim.hardware.calibrate.write import by_family, other_tables
from servesim.hardware.calibration_entry import completed

HEAD = {"source": "before", "memory": 0.8, "tile": 1e-6}
LIKE_HEAD = {"source": "also before", "range": {"m": [1, 8]}, "like": "bf16", "compute": 0.6}
BEFORE = {"moe": {"bf16": HEAD, "fp8": LIKE_HEAD}, "memory": {"norm": {"like": "rope"}, "rope": {}}}


@pytest.mark.parametrize(
    ("before", "kept", "fitted"),
    [
        (BEFORE["moe"], "fp8", {"bf16": {"memory": 0.5, "tile": 9e-6}}),
        (BEFORE["moe"], "fp8", {"int4": {"memory": 0.5}}),  # bf16 could not be fitted any more
        (
            {"fp8": HEAD, "nvfp4": {"like": "fp8", "compute": 0.6}},
            "nvfp4",
            {"bf16": {"memory": 0.5}, "fp8": {"like": "bf16"}},
        ),
    ],
)
def test_an_entry_like_one_that_is_fitted_anew_or_dropped_keeps_its_coefficients(
    before: Mapping[str, Any], kept: str, fitted: Mapping[str, Any]
) -> None:
    new = {f"moe.{key}": table for key, table in fitted.items()}
    after = by_family({**other_tables({"moe": before}, ["moe.bf16"], new), **new})["moe"]
    assert completed(after, kept, kept) == completed(before, kept, kept)


def test_an_entry_like_one_that_is_kept_stays_as_written() -> None:
    kept = other_tables(BEFORE, ["moe.bf16"], ["moe.bf16"])
    assert kept["memory.norm"] == {"like": "rope"}
    whole = kept["moe.fp8"]
    assert list(whole) == ["source", "range", "memory", "tile", "compute"]
    assert (whole["source"], whole["range"]) == ("also before", {"m": [1, 8]})
