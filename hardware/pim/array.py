"""Units beside the banks of many channels, and how attention is spread over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from servesim.errors import InputError
from servesim.graph.work import AttentionWork
from servesim.hardware.pim.dram import Dram, standard


@dataclass(frozen=True)
class PimArray:
    """A device file's ``[pim]`` table.

    Attributes:
        standard: name of the DRAM standard.
        channels: (pseudo) channels of the whole device.
        units: of a channel, each fed by one bank at a time.
        unit_flops: FLOP/s of a unit.

    Raises:
        InputError: a count or rate that is not positive, or more units than banks.
        UnknownNameError: no such standard.
    """

    standard: str
    channels: int
    units: int
    unit_flops: float

    def __post_init__(self) -> None:
        for name in ("channels", "units", "unit_flops"):
            if not getattr(self, name) > 0:
                raise InputError(f"[pim] {name} must be positive, not {getattr(self, name)}")
        if self.units > self.dram.banks:
            raise InputError(
                f"[pim] units: {self.units} in a channel of {self.dram.banks} {self.standard} banks"
            )

    @cached_property
    def dram(self) -> Dram:
        """The timing of one channel."""
        return standard(self.standard)

    @property
    def bandwidth(self) -> float:
        """Bytes/s that all units read together, rows opened and closed."""
        return self.channels * self.units * self.dram.bank_bandwidth

    def channel_seconds(self, work: AttentionWork, keys: Sequence[int]) -> list[float]:
        """Seconds that each channel computes for decodes that read so many ``keys`` each.

        A KV head of a request lies in one channel (heads are dealt to the channels in turn, request
        after request), its tokens over the channel's units. A unit takes the longer of reading
        them and of computing for every query head of the KV head.
        """
        tokens = np.ceil(np.asarray(keys, dtype=np.float64) / self.units)
        heads = 1 if work.latent else work.kv_heads
        reading = self.dram.read_seconds(tokens * (work.kv_bytes_per_token / heads))
        flops = 2.0 * tokens * (work.heads / heads) * (work.head_dim + work.value_dim)
        each = np.repeat(np.maximum(reading, flops / self.unit_flops), heads)
        channels = np.arange(len(each)) % self.channels
        return [float(s) for s in np.bincount(channels, each, self.channels)]
