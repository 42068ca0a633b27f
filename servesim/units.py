"""Printing and parsing of quantities; inside servesim everything is SI (s, B, FLOP, W, J)."""

from __future__ import annotations

GIB = 2**30
MIB = 2**20


def si(value: float, unit: str, digits: int = 3) -> str:
    """``value`` with an SI prefix, e.g. ``si(1.2e9, "FLOP") == "1.2 GFLOP"``."""
    if value == 0:
        return f"0 {unit}"
    for scale, prefix in (
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g} {prefix}{unit}"
    if abs(value) >= 1:
        return f"{value:.{digits}g} {unit}"
    for scale, prefix in ((1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def binary(value: float) -> str:
    """Bytes in the largest of B, KiB, MiB and GiB that leaves at least one of it."""
    for scale, unit in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value:.4g} B"


def gib(value: float) -> str:
    """Bytes as GiB with two decimals."""
    return f"{value / GIB:.2f} GiB"
