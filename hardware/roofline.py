"""The cost model that needs a data sheet and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.errors import UnsupportedError
from servesim.graph.work import Work
from servesim.hardware.cost import Cost, Source
from servesim.hardware.device import Device
from servesim.hardware.shared_keys import near_bytes

#: Families whose FLOP and bytes a single device can be asked about.
FAMILIES = ("gemm", "attention", "moe", "recurrent", "memory")


@dataclass(frozen=True)
class RooflineCost:
    """``launch + max(FLOP / (peak·compute), bytes / (bandwidth·memory))``.

    Williams, Waterman, Patterson: Roofline (CACM 2009), with the efficiencies of
    ``device.efficiency``. Work without FLOP or bytes takes no time: no kernel runs. Keys that
    decodes read again come at the cache's bandwidth, if it holds them.
    """

    device: Device

    def cost(self, work: Work) -> Cost:
        """The cost of ``work``.

        Raises:
            UnsupportedError: a family or number format the device cannot run; collectives belong
                to links.
        """
        if work.family not in FAMILIES:
            name = work.label or "unnamed"
            raise UnsupportedError(
                f"{self.device.name}: no roofline for {work.family} work ({name})"
            )
        efficiency = self.device.efficiency
        moved = work.bytes_read + work.bytes_written
        if work.flops == 0 and moved == 0:
            return Cost(0.0, Source.ANALYTICAL)
        compute = 0.0
        if work.flops:
            compute = work.flops / (self.device.flops_for(work.dtype) * efficiency.compute)
        bandwidth = self.device.memory.bandwidth * efficiency.memory
        memory = moved / bandwidth
        cache = self.device.cache
        if cache is not None and (near := near_bytes(work, cache)):
            memory += near / max(cache.bandwidth, bandwidth) - near / bandwidth
        return Cost(efficiency.launch + max(compute, memory), Source.ANALYTICAL)
