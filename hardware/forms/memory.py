"""Kernels that move data: norms, rotary, activations, look-ups, sampling."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.work import MemoryWork
from servesim.hardware.forms.machine import Machine, blended_max

_SHARPNESS = 2.0
#: Look-ups that PyTorch's ``index_select`` works off one after another in one kernel.
_FEW_ROWS = 16


@dataclass(frozen=True, slots=True)
class MemoryForm:
    """``launch + row·rows/cores + the larger of one row on its core and all bytes``.

    What the kernel before has just written is still in the last-level cache as long as it fits.

    Attributes:
        launch: seconds of the smallest kernel.
        row: seconds a core spends on a row beside its bytes.
        traffic: bytes moved for each byte that must be (passes over the data).
        cache: bytes/s of the last-level cache, as a multiple of bandwidth.
        held: share of the last-level cache that still holds the operands.
        memory: share of peak bandwidth beyond it.
        core: bytes/s one core reaches on a row, as a multiple of ``bandwidth / cores``; decides
            for few long rows. 0 where it was not fitted: no limit.
        serial: seconds a row takes of up to 16 that wait for each other (look-ups). 0: they
            do not.
    """

    launch: float
    row: float
    traffic: float
    cache: float
    held: float
    memory: float
    core: float = 0.0
    serial: float = 0.0

    def seconds(self, work: MemoryWork, machine: Machine) -> float:
        """Time of ``work``; nothing for work that moves nothing."""
        moved = work.bytes_read + work.bytes_written
        if moved <= 0.0:
            return 0.0
        if self.serial and work.rows <= _FEW_ROWS:
            return self.launch + self.serial * work.rows
        near = min(moved, self.held * machine.cache_bytes)
        streamed = near / self.cache + (moved - near) / self.memory
        streamed *= self.traffic / machine.bandwidth
        if self.core:
            row = moved / work.rows * machine.cores / (self.core * machine.bandwidth)
            streamed = blended_max(row, streamed, _SHARPNESS)
        return self.launch + self.row * work.rows / machine.cores + streamed
