"""DRAM standards: the timing that limits how fast units beside the banks are fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servesim.errors import UnknownNameError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dram:
    """One channel of a DRAM standard at one speed grade.

    Attributes:
        t_rcd: seconds from opening a row to the first column access.
        t_rp: seconds to close the rows of all banks.
        t_ccd: seconds between column accesses to one bank (tCCD_L).
        burst_bytes: of a column access.
        page_bytes: of a row in one bank of the channel.
        banks: of a channel.
        pin_bandwidth: bytes/s that leave the channel.
    """

    name: str
    t_rcd: float
    t_rp: float
    t_ccd: float
    burst_bytes: int
    page_bytes: int
    banks: int
    pin_bandwidth: float

    @property
    def page_seconds(self) -> float:
        """To open a row, read all of it and close it: tRCD + bursts x tCCD + tRP."""
        return self.t_rcd + self.page_bytes / self.burst_bytes * self.t_ccd + self.t_rp

    @property
    def bank_bandwidth(self) -> float:
        """Bytes/s of one bank read row after row (a GEMV's matrix)."""
        return self.page_bytes / self.page_seconds

    def read_seconds(self, bytes_read: Floats) -> Floats:
        """Seconds to read each of so many bytes, whole rows and a last partial one, from a bank."""
        pages = np.floor(bytes_read / self.page_bytes)
        rest = bytes_read - pages * self.page_bytes
        opened = (self.t_rcd + self.t_rp) * (rest > 0)
        columns = np.ceil(rest / self.burst_bytes) * self.t_ccd
        return np.asarray(pages * self.page_seconds + opened + columns)


_ALL = (
    # JESD235B at 2.4 Gb/s a pin (clock 1.2 GHz): a pseudo channel of 64 bits, burst length 4.
    # tCCD_L of 4 clocks: Lee et al., ISCA 2021. tRCD, tRP: 14 ns, left to the vendor (estimate).
    Dram("HBM2", 14e-9, 14e-9, 4 / 1.2e9, 32, 1024, 16, 19.2e9),
    # JESD209-4 at 4266 Mb/s (clock 2133 MHz): 16 bits, burst length 16, tRCD 18 ns, tRPab 21 ns,
    # tCCD 8 clocks, 2 KB rows.
    Dram("LPDDR4X", 18e-9, 21e-9, 8 / 2.133e9, 32, 2048, 8, 8.532e9),
    # JESD209-5 at 6400 Mb/s (clock 800 MHz, WCK 3.2 GHz), bank groups: 16 bits, burst length 16,
    # tRCD 18 ns, tRPab 21 ns, tCCD_L 4 clocks, 2 KB rows.
    Dram("LPDDR5", 18e-9, 21e-9, 4 / 0.8e9, 32, 2048, 16, 12.8e9),
    # JESD79-4 at 3200 Mb/s, bin AA (clock 1.6 GHz): eight x8 chips, burst length 8, tRCD and tRP
    # 13.75 ns, tCCD_L 5 ns, rows of 1 KB a chip.
    Dram("DDR4", 13.75e-9, 13.75e-9, 5e-9, 64, 8192, 16, 25.6e9),
)
STANDARDS: Mapping[str, Dram] = {one.name: one for one in _ALL}


def standard(name: str) -> Dram:
    """The standard called ``name``.

    Raises:
        UnknownNameError: no such standard.
    """
    if name not in STANDARDS:
        raise UnknownNameError("DRAM standard", name, STANDARDS)
    return STANDARDS[name]
