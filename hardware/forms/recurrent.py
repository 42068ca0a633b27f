"""Recurrent mixers: chunked scans over prefills, one state update for each decode."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.work import RecurrentWork
from servesim.hardware.forms.machine import Machine, blended_max, waves


@dataclass(frozen=True, slots=True)
class RecurrentForm:
    """States and activations through memory, against the chain of chunks of one sequence.

    Attributes:
        launch: seconds of the smallest decode kernel.
        scan_launch: seconds of the smallest prefill scan (several kernels).
        token: seconds the chain of one (sequence, head) takes for a token.
        tile: seconds a (sequence, head) takes beside its tokens.
        resident_tiles: (sequence, head) pairs a core works on at once.
        compute: share of peak arithmetic.
        scan_traffic: bytes a scan moves for each byte of activations and state.
        traffic: the same of decodes.
        memory: share of peak bandwidth.
        cache: bytes/s of the last-level cache, as a multiple of bandwidth.
        held: share of the last-level cache that still holds states and activations.
        sharpness: of the blend of chain and memory.
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

    def seconds(self, work: RecurrentWork, machine: Machine) -> float:
        """Time of ``work``: the scan of its prefills, then the update of its decodes."""
        return self._scan(work, machine) + self._update(work, machine)

    def _scan(self, work: RecurrentWork, machine: Machine) -> float:
        if work.prefill_tokens == 0:
            return 0.0
        count = max(1, work.prefills)
        slots = machine.cores * self.resident_tiles
        length = work.prefill_tokens / count
        chains = waves(count * work.heads / slots, 1.0) * length * self.token
        arithmetic = work.prefill_tokens * work.flops_per_token / (self.compute * machine.flops)
        moved = work.prefill_tokens * work.token_bytes + 2.0 * count * work.state_bytes
        memory = self._streamed(moved * self.scan_traffic, machine)
        return self.scan_launch + blended_max(chains, memory + arithmetic, self.sharpness)

    def _update(self, work: RecurrentWork, machine: Machine) -> float:
        if work.decodes == 0:
            return 0.0
        slots = machine.cores * self.resident_tiles
        tiles = waves(work.decodes * work.heads / slots, 1.0) * self.tile
        moved = work.decodes * (2.0 * work.state_bytes + work.token_bytes)
        memory = self._streamed(moved * self.traffic, machine)
        return self.launch + blended_max(tiles, memory, self.sharpness)

    def _streamed(self, moved: float, machine: Machine) -> float:
        near = min(moved, self.held * machine.cache_bytes)
        return (near / self.cache + (moved - near) / self.memory) / machine.bandwidth
