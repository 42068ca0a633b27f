"""Attention of decodes: the cache of each sequence, split over the cores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servesim.graph.work import AttentionWork
from servesim.hardware.forms.machine import Machine, blended_max, step_keys, waves
from servesim.hardware.shared_keys import near_keys

#: Kernels where heads and groups are swapped: there, attention, and back.
_SWAPPED_KERNELS = 3
#: Tiles from which vLLM's Triton kernel does not split keys (its least grid without segments).
_FULL_GRID = 128


@dataclass(frozen=True, slots=True)
class DecodeForm:
    """One query a sequence: the cache is read by (sequence, KV head, split) in waves.

    ``launch + queries + [several sequences] batch + [window] window + [split] combine +
    blended_max(waves, memory)``; linear in the sum of contexts once memory decides.

    Attributes:
        launch: seconds of the smallest kernel.
        batch: seconds that swapping heads and groups takes with several sequences, KV heads and
            heads a KV head.
        swap: seconds a core takes then for 128 elements of queries.
        doubling: seconds that each kernel takes more with twice the sequences.
        sequence: seconds that planning takes for each sequence.
        query: seconds a core takes for 128 elements of queries beside the keys.
        window: seconds a window adds once contexts exceed it.
        combine, join: seconds to join splits, and for each of them.
        partial: seconds a core takes to write 128 elements of what a split found, and to read
            them where they are joined.
        block: keys of a step: a tile goes through whole ones, and a split takes at least one.
        room: elements of keys that a step has room for (``step_keys``); 0 where it is no matter.
        most_splits: splits that all sequences together may have of a KV head, each at least two;
            0 where they may fill the device.
        segments: splits of every sequence, short ones as well, until tiles alone fill
            ``_FULL_GRID`` (vLLM's Triton kernel: 16); 0 where splits follow the keys.
        tile: seconds of a tile beside its keys.
        stream: bytes/s one tile reads, as a multiple of ``bandwidth / cores``.
        compute: share of peak arithmetic inside a tile (decides for latent attention).
        resident_tiles: tiles a core holds at once.
        memory: share of peak bandwidth.
        ramp: seconds that large reads from many tiles take more, however large.
        cache: bytes/s at which a cache left whole in the last-level cache is read, as a multiple
            of bandwidth.
        sharpness: of the blend of tiles and memory.
        smoothing: share of wave quantisation that is hidden.
        skew: share of the way from the mean context to the longest that a batch pays, for each
            round of tiles; nothing while all tiles run at once, two a core.
    """

    launch: float
    batch: float
    combine: float
    block: float
    tile: float
    stream: float
    compute: float
    resident_tiles: float
    memory: float
    cache: float
    sharpness: float
    smoothing: float = 0.5
    skew: float = 0.15
    ramp: float = 0.0
    join: float = 0.0
    sequence: float = 0.0
    query: float = 0.0
    window: float = 0.0
    most_splits: float = 0.0
    segments: float = 0.0
    room: float = 0.0
    partial: float = 0.0
    doubling: float = 0.0
    swap: float = 0.0

    def seconds(self, work: AttentionWork, machine: Machine, resident: float = 0.0) -> float:
        """Time of the decodes of ``work`` alone; ``resident``: share of the cache's bytes in L2."""
        count = work.decodes
        if count == 0:
            return 0.0
        mean = work.decode_keys / count
        heads = 1 if work.latent else work.kv_heads
        slots = machine.cores * self.resident_tiles
        tiles = count * heads
        if tiles > 2 * machine.cores:
            mean += self.skew * machine.cores / tiles * (work.decode_keys_max - mean)
        # A window that slid past the first key starts amid a block: half way to it, none has.
        slid = min(1.0, max(0.0, 2.0 * mean / work.window - 1.0)) if work.window else 0.0
        block = step_keys(self.block, self.room, work.head_dim)
        steps = math.ceil(mean / block - 1e-9) + slid
        splits = self._splits(steps, count, tiles, slots)
        key = self._key(work, heads, machine)
        rounds = waves(tiles * splits / slots, self.smoothing)
        tiled = rounds * (self.tile + steps / splits * block * key)
        moved = count * mean * work.kv_bytes_per_token
        memory = moved * (
            (1.0 - resident) / (self.memory * machine.bandwidth)
            + resident / (self.cache * machine.bandwidth)
        )
        full = moved / (moved + machine.cache_bytes) * tiles / (tiles + machine.cores)
        memory += self.ramp * full * (1.0 - resident)
        memory -= (1.0 - resident) * self._saved_by_sharing(work, machine)
        beside = self._beside(work, splits, min(splits, steps), machine)
        return beside + self.window * slid + blended_max(tiled, memory, self.sharpness)

    def _beside(self, work: AttentionWork, splits: float, filled: float, machine: Machine) -> float:
        """Seconds of all but keys and windows; ``filled``: those of ``splits`` that have keys."""
        count = work.decodes
        rows = count * work.heads / 128.0 / machine.cores
        swapped = count > 1 and 1 < work.kv_heads < work.heads
        kernels = _SWAPPED_KERNELS if swapped else 1
        seconds = self.launch + count * self.sequence + kernels * self.doubling * math.log2(count)
        seconds += self.query * rows * work.head_dim
        if swapped:
            seconds += self.batch + self.swap * rows * work.head_dim
        if splits > 1.0:
            seconds += self.combine + self.join * splits
            seconds += self.partial * rows * work.value_dim * filled
        return seconds

    def _saved_by_sharing(self, work: AttentionWork, machine: Machine) -> float:
        """Seconds that keys read again take less out of the cache, at the data sheet's rate.

        ``cache`` was fitted to small caches left there whole, which tell little of that rate.
        """
        near = near_keys(work, machine.cache_bytes) * work.kv_bytes_per_token
        if not near:
            return 0.0
        far = self.memory * machine.bandwidth
        return near / far - near / max(machine.cache_bandwidth, far)

    def _splits(self, steps: float, count: int, tiles: int, slots: float) -> float:
        """Splits of a sequence's keys of one head, of ``steps`` blocks."""
        if self.segments:
            return self.segments if tiles <= _FULL_GRID else 1.0
        splits = min(steps, slots / tiles)
        if self.most_splits:
            splits = min(splits, max(2.0, self.most_splits / count))
        return max(1.0, splits)

    def _key(self, work: AttentionWork, heads: int, machine: Machine) -> float:
        """Seconds a tile takes for a key: to read it, or to compute with it."""
        read = work.kv_bytes_per_token / heads
        flops = 2.0 * work.heads / heads * (work.head_dim + work.value_dim)
        return max(
            read * machine.cores / (self.stream * machine.bandwidth),
            flops * machine.cores * self.resident_tiles / (self.compute * machine.flops),
        )
