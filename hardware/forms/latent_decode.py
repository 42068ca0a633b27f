"""Latent attention (MLA) of decodes: tiles of heads go through the latents of each sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servesim.graph.work import AttentionWork
from servesim.hardware.forms.machine import Machine, blended_max, waves
from servesim.hardware.shared_keys import near_keys

#: Bytes of a partial output's element: written by a split, and read where they are joined.
_PARTIAL_BYTES = 4.0 + 4.0
#: How sharply latents that outgrow the last-level cache fall out of it.
_SPILL = 4


@dataclass(frozen=True, slots=True)
class LatentDecodeForm:
    """Attention over latents, with all that its module does beside products and norms.

    ``launch + doubling + queries + [several splits] combine + blended_max(tiles, memory)``.

    Attributes:
        launch: seconds of the smallest module.
        doubling: seconds that the many small kernels take more with twice the sequences.
        query: seconds a core takes to move 128 elements of queries between them.
        combine: seconds to join splits, beside moving what each of them found.
        tile: seconds of a tile beside its keys.
        compute: share of peak arithmetic inside a tile.
        memory: share of peak bandwidth.
        sharpness: of the blend of tiles and memory.
        smoothing: share of wave quantisation that is hidden.
        rows: heads that a tile holds, whether there are as many or not.
        block: least keys of a split.
        splits: of every sequence, however many there are; 0 where they fill the device.
        most_splits: of a sequence, where they fill the device; 0 without a limit.
        apart: 1 when the tiles of a sequence do not run together, and read its latents again.
        pad_launch, pad: seconds that filling up a tile takes where there are fewer heads, and
            those a core takes for 128 elements of queries.
    """

    launch: float
    doubling: float
    query: float
    combine: float
    tile: float
    compute: float
    memory: float
    sharpness: float
    smoothing: float
    rows: float
    block: float
    splits: float = 0.0
    most_splits: float = 0.0
    apart: float = 0.0
    pad_launch: float = 0.0
    pad: float = 0.0

    def seconds(self, work: AttentionWork, machine: Machine, resident: float = 0.0) -> float:
        """Time of the decodes of ``work``; ``resident``: share of the latents in the cache."""
        count = work.decodes
        if count == 0:
            return 0.0
        keys = work.decode_keys / count
        head_tiles = math.ceil(work.heads / self.rows)
        splits = self._splits(keys, count * head_tiles, machine)
        flops = 2.0 * self.rows * (work.head_dim + work.value_dim)
        key = flops * machine.cores / (self.compute * machine.flops)
        rounds = waves(count * head_tiles * splits / machine.cores, self.smoothing)
        tiled = rounds * (self.tile + keys / splits * key)
        moved = work.decode_keys * work.kv_bytes_per_token
        if work.repeated_keys:
            near = near_keys(work, machine.cache_bytes) / work.decode_keys
            resident += (1.0 - resident) * near
        moved *= (1.0 - resident) * self._rereads(moved, count, head_tiles, machine)
        memory = moved / (self.memory * machine.bandwidth)
        return self._beside(work, splits, machine) + blended_max(tiled, memory, self.sharpness)

    def _splits(self, keys: float, tiles: int, machine: Machine) -> float:
        if self.splits:
            return self.splits
        most = self.most_splits or math.inf
        return max(1.0, min(keys / self.block, machine.cores / tiles, most))

    def _beside(self, work: AttentionWork, splits: float, machine: Machine) -> float:
        """Seconds of everything but the kernel that goes through the latents."""
        queries = work.decodes * work.heads
        elements = queries * work.head_dim / 128.0 / machine.cores
        seconds = self.launch + self.doubling * math.log2(work.decodes) + self.query * elements
        if work.heads < self.rows:
            seconds += self.pad_launch + self.pad * elements
        if splits > 1.0:
            partial = queries * splits * work.value_dim * _PARTIAL_BYTES
            seconds += min(1.0, splits - 1.0) * (self.combine + partial / machine.bandwidth)
        return seconds

    def _rereads(self, moved: float, count: int, head_tiles: int, machine: Machine) -> float:
        """Times the latents come from memory: tiles that run apart miss them in a full cache."""
        if not self.apart or head_tiles == 1:
            return 1.0
        together = min(head_tiles, max(1.0, machine.cores / count))
        missed = moved**_SPILL / (moved**_SPILL + machine.cache_bytes**_SPILL)
        return 1.0 + missed * (head_tiles / together - 1.0)
