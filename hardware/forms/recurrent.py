"""Recurrent mixers: chunked scans over prefills, one state update for each decode."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servesim.graph.work import RecurrentWork
from servesim.hardware.forms.machine import Machine, blended_max, waves

#: How sharply states of updates that outgrow the last-level cache fall out of it.
_SPILL = 8.0


@dataclass(frozen=True, slots=True)
class RecurrentForm:
    """States and activations through memory, against the chain of chunks of one sequence.

    Attributes:
        launch: seconds of the smallest decode kernel.
        scan_launch: seconds of the smallest prefill scan (several kernels).
        token: seconds the chain of one (sequence, head) takes for a token.
        start: seconds it takes beside its tokens.
        tile: seconds a (sequence, head) takes to update.
        resident_tiles: (sequence, head) pairs a core works on at once.
        compute: share of peak arithmetic.
        scan_traffic: bytes a scan moves for each byte of activations.
        traffic: bytes an update moves for each byte of activations and states.
        memory: share of peak bandwidth.
        cache: bytes/s of the last-level cache, as a multiple of bandwidth.
        held: share of the last-level cache that still holds what a scan moves.
        sharpness: of the blend of chain and memory.
        chunk: tokens of a chunk: chunks of a sequence run side by side or, with a state between
            them, one after another.
        inner: seconds a chunk takes for each of its tokens.
        states: passes over the states of sequences, of the two that reading and writing takes.
        chunk_states: passes over a state for each chunk.
        update_held: as ``held``, for updates; 0: the same.
        spill: how sharply what a scan moves falls out of the cache: its kernels hand on tensors of
            several sizes.
    """

    launch: float
    scan_launch: float
    token: float
    tile: float
    resident_tiles: float
    compute: float
    scan_traffic: float
    traffic: float
    memory: float
    cache: float
    held: float
    sharpness: float
    start: float = 0.0
    chunk: float = 64.0
    inner: float = 0.0
    states: float = 2.0
    chunk_states: float = 0.0
    update_held: float = 0.0
    spill: float = _SPILL

    def seconds(self, work: RecurrentWork, machine: Machine) -> float:
        """Time of ``work``: the scan of its prefills, then the update of its decodes."""
        return self._scan(work, machine) + self._update(work, machine)

    def _scan(self, work: RecurrentWork, machine: Machine) -> float:
        if work.prefill_tokens == 0:
            return 0.0
        count = max(1, work.prefills)
        slots = machine.cores * self.resident_tiles
        length = work.prefill_tokens / count
        chains = waves(count * work.heads / slots, 1.0) * (self.start + length * self.token)
        arithmetic = work.prefill_tokens * work.flops_per_token / (self.compute * machine.flops)
        passes = self.states + self.chunk_states * math.ceil(length / self.chunk)
        moved = self.scan_traffic * work.prefill_tokens * work.token_bytes
        moved += count * passes * work.state_bytes
        memory = self._streamed(moved, self.held, self.spill, machine)
        fixed = self.scan_launch + self.inner * min(length, self.chunk)
        return fixed + blended_max(chains, memory + arithmetic, self.sharpness)

    def _update(self, work: RecurrentWork, machine: Machine) -> float:
        if work.decodes == 0:
            return 0.0
        slots = machine.cores * self.resident_tiles
        tiles = waves(work.decodes * work.heads / slots, 1.0) * self.tile
        moved = self.traffic * work.decodes * (2.0 * work.state_bytes + work.token_bytes)
        memory = self._streamed(moved, self.update_held or self.held, _SPILL, machine)
        return self.launch + blended_max(tiles, memory, self.sharpness)

    def _streamed(self, moved: float, held: float, spill: float, machine: Machine) -> float:
        near = 0.0
        if held and machine.cache_bytes:
            near = 1.0 / (1.0 + (moved / (held * machine.cache_bytes)) ** spill)
        return moved * (near / self.cache + (1.0 - near) / self.memory) / machine.bandwidth
