"""What accelerators cost to rent: a dated table with sources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from servesim.hardware.load import build, read_toml


@dataclass(frozen=True, slots=True)
class Price:
    """The rent of one device.

    Attributes:
        usd_per_hour: on demand, its share of the server included.
        source: whose price list.
        date: when it was read: year and month.
    """

    usd_per_hour: float
    source: str
    date: str


def price_of(device: str) -> Price | None:
    """The rent of the device called ``device`` (the name of its file); None if unknown."""
    return _table().get(device)


@cache
def _table() -> dict[str, Price]:
    tables = read_toml(Path(__file__).parent / "rents.toml")
    return {name: build(Price, table, f"rents.toml [{name}]") for name, table in tables.items()}
