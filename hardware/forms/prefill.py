"""Attention of prefills: tiles of queries; with them decodes, where one kernel does both."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import AttentionWork
from servesim.hardware.forms.machine import Machine, blended_max, step_keys, waves

#: How sharply operands that outgrow the last-level cache fall out of it.
_SPILL = 6
#: Threads that store a token's keys: one an element, up to this many.
_STORE_WIDTH = 512


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
        cache: bytes/s of the last-level cache, as a multiple of bandwidth.
        held: share of its capacity up to which queries, keys and values of new tokens come from it.
        passes: over new keys and values, where the kernel first moves them into the paged cache.
        store: seconds a core takes for a token there, of ``_STORE_WIDTH`` threads or more.
        group: seconds that several heads a KV head add.
        gather: seconds a core takes for a query of 128 elements when heads share a KV head.
        scatter: the same where they share it in groups that the kernel is not made for, or not.
        least_group, most_group: heads of a KV head that the kernel is made for, powers of two in
            between (FlashAttention 3: 4, 8, 16); 0 where all groups are alike.
        columns: keys a block takes at a time: it goes through whole ones.
        room: elements of keys that are taken at a time (``step_keys``); 0 where it is no matter.
        halves: 1 when a block leaves out the half of its rows that holds no query.
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
    cache: float = 1.0
    held: float = 0.0
    passes: float = 0.0
    store: float = 0.0
    group: float = 0.0
    gather: float = 0.0
    scatter: float = 0.0
    least_group: float = 0.0
    most_group: float = 0.0
    columns: float = 1.0
    room: float = 0.0
    halves: float = 0.0

    def seconds(self, work: AttentionWork, machine: Machine) -> float:
        """Time of the prefills of ``work``, with its decodes if they run as blocks as well."""
        width = work.head_dim + work.value_dim + self.softmax
        key = 2.0 * self.rows * width * machine.cores / (self.compute * machine.flops)
        group = work.heads / work.kv_heads
        queries, heads = self.rows, float(work.heads)
        if self.packed:
            queries, heads = queries / group, heads / group
        columns = step_keys(self.columns, self.room, work.head_dim)
        blocks = keys = longest = seen = tallest = 0.0
        count, through, most = 0, 0.0, 0.0
        before = None
        for prefill in work.prefills:
            if prefill != before:
                count, through, most = self._sequence(*prefill, work, queries, columns)
                tallest = max(tallest, count)
                longest = max(longest, most)
                before = prefill
            blocks += count
            keys += through
            seen += min(prefill[1], work.window or math.inf)
        if self.joint and work.decodes:
            blocks += work.decodes
            keys += work.decodes * _whole(work.decode_keys / work.decodes, columns)
            longest = max(longest, _whole(work.decode_keys_max, columns))
            seen += work.decode_keys * self._rereads(work, machine)
        if blocks == 0:
            return 0.0
        sequences = len(work.prefills) + (work.decodes if self.joint else 0)
        empty = max(0.0, tallest * sequences - blocks)
        total = heads * (blocks * self.tile + keys * key + empty * self.empty)
        last = self.tile + longest * key
        tiled = rounds_seconds(
            total, heads * blocks, last, machine.cores, self.smoothing, self.tail
        )
        fresh = work.query_tokens - work.decodes
        moved, stored = self._moved(work, seen, fresh, machine)
        return self._fixed(work, machine) + stored + blended_max(tiled, moved, self.sharpness)

    def _fixed(self, work: AttentionWork, machine: Machine) -> float:
        """Seconds that come to those of blocks and memory."""
        group = work.heads / work.kv_heads
        elements = work.query_tokens * work.heads * work.head_dim / 128.0 / machine.cores
        query = self.gather if group > 1.0 else 0.0
        if self.most_group:
            fits = self.least_group <= group <= self.most_group and math.log2(group).is_integer()
            query = self.gather if fits else self.scatter
        return self.launch + (self.group if group > 1.0 else 0.0) + query * elements

    def _sequence(
        self, new: int, context: int, work: AttentionWork, queries: float, columns: float
    ) -> tuple[int, float, float]:
        """Blocks of one sequence and head, the keys they go through, and the most of one of them.

        Blocks take whole columns: on average, those but the last go through half of what is left
        beyond their diagonal, and as much again before their window.
        """
        count = math.ceil(new / queries)
        end, window = new + context, work.window
        last = last_keys(end, queries, window)
        through = (count - 1) * last  # all of them, without a causal order
        if work.causal:
            through = block_keys(new, context, count, queries, window) - last
        ragged = count - 1 + max(0, slid_blocks(context, count, queries, window) - 1)
        through += ragged * 0.5 * max(0.0, columns - queries)
        most = last = _whole(end, columns) - columns * math.floor((end - last) / columns)
        if self.halves and 2.0 * (new - (count - 1) * queries) <= queries:
            last *= 0.5
        return count, through + last, most if count > 1 else last

    def _moved(
        self, work: AttentionWork, seen: float, fresh: int, machine: Machine
    ) -> tuple[float, float]:
        """Seconds to move what the kernel reads and writes, and to store new keys and values.

        ``seen``: keys read of the cache, of ``fresh`` new tokens beside.
        """
        width = bytes_per_element(work.dtype)
        query_bytes = fresh * work.heads * (work.head_dim + work.value_dim) * width
        cached = fresh * work.kv_bytes_per_token
        given = cached * width / bytes_per_element(work.kv_dtype)
        near = 0.0
        operands = query_bytes + cached + given
        if self.held and machine.cache_bytes and operands:
            near = 1.0 / (1.0 + (operands / (self.held * machine.cache_bytes)) ** _SPILL)
        far = 1.0 / (self.memory * machine.bandwidth)
        a_byte = (1.0 - near) * far + near / (self.cache * machine.bandwidth)
        moved = (query_bytes + cached) * a_byte + seen * work.kv_bytes_per_token * far
        threads = min(1.0, work.kv_heads * work.head_dim / _STORE_WIDTH)
        placed = self.store * fresh * threads / machine.cores
        return moved, max(placed, self.passes * (given + cached) * a_byte)

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


def _whole(keys: float, columns: float) -> float:
    """``keys`` up to the end of the columns that a block takes at a time."""
    return columns * math.ceil(keys / columns)


def rounds_seconds(
    total: float, blocks: float, longest: float, cores: int, smoothing: float, tail: float
) -> float:
    """Time of ``blocks`` of ``total`` core seconds, of which the longest takes ``longest``.

    Blocks as long as each other run in waves; others fill the cores evenly but for the end.
    """
    rounds = total / (longest * cores)
    even = min(1.0, max(0.0, 2.0 * total / (blocks * longest) - 1.0))
    return longest * max(1.0, even * waves(rounds, smoothing) + (1.0 - even) * (rounds + tail))


def last_keys(keys: float, queries: float, window: int | None) -> float:
    """Keys the last block of a sequence goes through."""
    return keys if window is None else min(keys, window + queries)


def block_keys(new: int, context: int, blocks: int, queries: float, window: int | None) -> float:
    """Keys of all blocks of one sequence: each goes up to the diagonal of its last query."""
    if window is None or context + new <= window + queries:
        return blocks * context + queries * blocks * (blocks - 1) / 2 + new
    slid = slid_blocks(context, blocks, queries, window)
    growing = blocks - slid
    full = slid * (window + queries)
    return growing * context + queries * growing * (growing + 1) / 2 + full


def slid_blocks(context: int, blocks: int, queries: float, window: int | None) -> int:
    """Those of ``blocks`` that start past a window, and so read no key before it."""
    if window is None:
        return 0
    return blocks - min(blocks, max(0, math.ceil((window - context) / queries)))


def decodes_as_blocks(work: AttentionWork) -> bool:
    """Whether a joint kernel runs decodes as blocks even without prefills.

    FlashAttention 2 splits keys only where it can swap the heads of a group for queries: several
    heads a KV head, and no window.
    """
    return bool(work.window) or work.heads == work.kv_heads
