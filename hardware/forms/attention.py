"""Attention: split-KV decodes, query tiles of prefills, and both in one kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servesim.graph.work import AttentionWork
from servesim.hardware.forms.machine import Machine, blended_max, waves


@dataclass(frozen=True, slots=True)
class DecodeForm:
    """One query a sequence: the cache is read by (sequence, KV head, split) in waves.

    ``launch + [several sequences] batch + [split] combine + blended_max(waves, memory)``; linear
    in the sum of contexts once memory decides.

    Attributes:
        launch: seconds of the smallest kernel.
        batch: seconds that swapping heads and groups takes with several sequences, KV heads and
            heads a KV head.
        combine, join: seconds to join splits, and for each of them, once the mean context
            exceeds ``block``.
        block: keys a split takes at least.
        tile: seconds of a tile beside its keys.
        stream: bytes/s one tile reads, as a multiple of ``bandwidth / cores``.
        compute: share of peak arithmetic inside a tile (decides for latent attention).
        resident_tiles: tiles a core holds at once.
        memory: share of peak bandwidth.
        ramp: seconds that large reads from many tiles take more, however large.
        cache: bytes/s of the last-level cache, as a multiple of bandwidth.
        sharpness: of the blend of tiles and memory.
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
        splits = 1.0 if work.window else max(1.0, min(slots / tiles, mean / self.block))
        key_bytes = work.kv_bytes_per_token / heads
        key_flops = 2.0 * work.heads / heads * (work.head_dim + work.value_dim)
        key = max(
            key_bytes * machine.cores / (self.stream * machine.bandwidth),
            key_flops * slots / (self.compute * machine.flops),
        )
        rounds = waves(tiles * splits / slots, self.smoothing)
        tiled = rounds * (self.tile + mean / splits * key)
        moved = count * mean * work.kv_bytes_per_token
        memory = moved * (
            (1.0 - resident) / (self.memory * machine.bandwidth)
            + resident / (self.cache * machine.bandwidth)
        )
        full = moved / (moved + machine.cache_bytes) * tiles / (tiles + machine.cores)
        memory += self.ramp * full * (1.0 - resident)
        fixed = self.launch
        if count > 1 and 1 < work.kv_heads < work.heads:
            fixed += self.batch
        if mean > self.block and not work.window:
            fixed += self.combine + self.join * splits
        return fixed + blended_max(tiled, memory, self.sharpness)


@dataclass(frozen=True, slots=True)
class PrefillForm:
    """Blocks of queries of one head, each against all keys it may see, one after another.

    Attributes:
        launch: seconds of the smallest kernel.
        rows: queries in a block.
        tile: seconds of a block beside its keys.
        compute: share of peak arithmetic inside a block.
        softmax: what exponentials cost, in columns of head width.
        tail: blocks' worth of time that cores idle at the end when blocks differ in length.
        smoothing: share of wave quantisation that is hidden.
        memory: share of peak bandwidth.
        sharpness: of the blend of tiles and memory.
        packed: 1 when a block holds the queries of all heads of a KV head, 0 of one head.
        joint: 1 when decodes of a mixed batch run as blocks of the same kernel, without splits;
            0 when they run beside it.
        empty: seconds of a block without queries: every sequence gets as many as the longest.
    """

    launch: float
    rows: float
    tile: float
    compute: float
    softmax: float
    tail: float
    smoothing: float
    memory: float
    sharpness: float
    packed: float = 0.0
    joint: float = 0.0
    empty: float = 0.0

    def seconds(self, work: AttentionWork, machine: Machine) -> float:
        """Time of the prefills of ``work``, with its decodes if they run as blocks as well."""
        width = work.head_dim + work.value_dim + self.softmax
        key = 2.0 * self.rows * width * machine.cores / (self.compute * machine.flops)
        group = work.heads / work.kv_heads if self.packed else 1.0
        queries = self.rows / group
        heads = work.heads / group
        blocks = keys = longest = moved = tallest = 0.0
        for new, context in work.prefills:
            count = math.ceil(new / queries)
            tallest = max(tallest, count)
            blocks += count
            keys += _block_keys(new, context, count, queries, work.window)
            longest = max(longest, _last_keys(new + context, queries, work.window))
            moved += min(new + context, (work.window or math.inf) + new)
        if self.joint and work.decodes:
            blocks += work.decodes
            keys += work.decode_keys
            longest = max(longest, work.decode_keys_max)
            moved += work.decode_keys * self._rereads(work, machine)
        if blocks == 0:
            return 0.0
        longest_time = self.tile + longest * key
        sequences = len(work.prefills) + (work.decodes if self.joint else 0)
        empty = max(0.0, tallest * sequences - blocks)
        total_time = heads * (blocks * self.tile + keys * key + empty * self.empty)
        rounds = total_time / (longest_time * machine.cores)
        even = 2.0 * total_time / (heads * blocks * longest_time) - 1.0
        even = min(1.0, max(0.0, even))
        tiled = longest_time * max(
            1.0, even * waves(rounds, self.smoothing) + (1.0 - even) * (rounds + self.tail)
        )
        memory = moved * work.kv_bytes_per_token / (self.memory * machine.bandwidth)
        return self.launch + blended_max(tiled, memory, self.sharpness)

    def _rereads(self, work: AttentionWork, machine: Machine) -> float:
        """Times the decodes' keys come from memory when the heads of a group do not share them.

        Blocks run head by head, so a group's heads meet in the cache when the keys of one KV
        head fit, or as far as they run at the same time.
        """
        group = work.heads / work.kv_heads
        if self.packed or group <= 1.0 or machine.cache_bytes <= 0.0:
            return 1.0
        together = min(group, max(1.0, machine.cores / work.decodes))
        head_bytes = work.decode_keys * work.kv_bytes_per_token / work.kv_heads
        missed = 1.0 / (1.0 + math.pow(machine.cache_bytes / head_bytes, 4.0))
        return 1.0 + missed * (group / together - 1.0)


def _last_keys(keys: float, queries: float, window: int | None) -> float:
    """Keys the last block of a sequence goes through."""
    return keys if window is None else min(keys, window + queries)


def _block_keys(new: int, context: int, blocks: int, queries: float, window: int | None) -> float:
    """Keys of all blocks of one sequence: each goes up to the diagonal of its last query."""
    if window is None or context + new <= window + queries:
        return blocks * context + queries * blocks * (blocks - 1) / 2 + new
    growing = min(blocks, max(0, math.ceil((window - context) / queries)))
    full = (blocks - growing) * (window + queries)
    return growing * context + queries * growing * (growing + 1) / 2 + full


def decodes_as_blocks(work: AttentionWork) -> bool:
    """Whether a joint kernel runs decodes as blocks even without prefills.

    FlashAttention 2 splits keys only where it can swap the heads of a group for queries: several
    heads a KV head, and no window.
    """
    return bool(work.window) or work.heads == work.kv_heads


@dataclass(frozen=True, slots=True)
class AttentionForm:
    """Decodes, prefills and their mixture."""

    decode: DecodeForm
    prefill: PrefillForm

    def seconds(self, work: AttentionWork, machine: Machine, resident: float = 0.0) -> float:
        """Time of ``work``; ``resident`` as in :class:`DecodeForm`."""
        alone = not work.prefills and not (self.prefill.joint and decodes_as_blocks(work))
        if alone:
            return self.decode.seconds(work, machine, resident)
        if not work.decodes or self.prefill.joint:
            return self.prefill.seconds(work, machine)
        beside = self.decode.seconds(work, machine, resident) - self.decode.launch
        return self.prefill.seconds(work, machine) + beside
