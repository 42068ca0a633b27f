"""Costs of a device with units inside its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from servesim.graph.work import AttentionWork, Work
from servesim.hardware.cost import Cost, Source
from servesim.hardware.pim.array import PimArray
from servesim.hardware.roofline import RooflineCost

if TYPE_CHECKING:
    from servesim.hardware.device import Device


@dataclass(frozen=True)
class PimCost:
    """Attention of decodes from DRAM timing, all else from the roofline.

    Attributes:
        needs_contexts: attention depends on every decode's own context.
    """

    needs_contexts: ClassVar[bool] = True
    device: Device
    array: PimArray

    def cost(self, work: Work) -> Cost:
        """The cost of ``work``; of attention as if all contexts were equal.

        Raises:
            UnsupportedError: as of the roofline.
        """
        if not isinstance(work, AttentionWork) or not work.decodes:
            return self._roofline.cost(work)
        each, more = divmod(work.decode_keys, work.decodes)
        keys = [each + 1] * more + [each] * (work.decodes - more)
        return self.attention(work, keys)

    def attention(self, work: AttentionWork, keys: Sequence[int]) -> Cost:
        """The cost of attention whose decodes read so many ``keys`` each.

        The busiest channel sets the pace. Queries, outputs and new keys pass the channels' pins
        before and after.

        Raises:
            UnsupportedError: as of the roofline, for prefills.
        """
        self.device.flops_for(work.dtype)
        decodes = replace(work, prefills=())
        busiest = max(self.array.channel_seconds(decodes, keys), default=0.0)
        kept = decodes.decode_keys * decodes.kv_bytes_per_token
        moved = decodes.bytes_read - kept + decodes.bytes_written
        pins = moved / (self.array.channels * self.array.dram.pin_bandwidth)
        seconds = self.device.efficiency.launch + busiest + pins
        if work.prefills:
            prefills = replace(work, decodes=0, decode_keys=0, decode_keys_max=0)
            seconds += self._roofline.cost(prefills).seconds
        return Cost(seconds, Source.ANALYTICAL)

    @cached_property
    def _roofline(self) -> RooflineCost:
        return RooflineCost(self.device)
