"""Latent attention (MLA) of prefills: over expanded keys; short ones over latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.work import AttentionWork
from servesim.hardware.forms.machine import Machine
from servesim.hardware.forms.prefill import block_keys, last_keys, rounds_seconds

#: What exponentials cost, in columns of head width: as fitted for prefills of plain attention.
_SOFTMAX = 30.0
#: Width of latents over that of expanded keys and values, (576 + 512) / (192 + 128) (DeepSeek).
_LATENT_WIDTH = 3.4
#: What it takes to put together queries and outputs of latents, over those of expanded keys: as
#: fitted on H100 and H200.
_LATENT_QUERY = 2.5
#: Queries times heads in a block over latents (FlashAttention 3, FlashMLA).
_LATENT_ROWS = 64.0


@dataclass(frozen=True, slots=True)
class LatentPrefillForm:
    """Attention over expanded keys, with all that its module does beside products and norms.

    Attributes:
        launch: seconds of the smallest module.
        token: seconds a core takes for what every token costs.
        query: seconds a core takes to put together queries, keys and values of a token and head.
        tile: seconds of a block beside its keys.
        compute: share of peak arithmetic inside a block.
        tail: blocks' worth of time that cores idle at the end when blocks differ in length.
        smoothing: share of wave quantisation that is hidden.
        rows: queries in a block.
        absorbed: new tokens of a sequence up to which it is treated as decodes are (vLLM with
            FlashAttention 3: 512): its queries go to the latents, nothing is expanded.
    """

    launch: float
    token: float
    query: float
    tile: float
    compute: float
    tail: float
    smoothing: float
    rows: float
    absorbed: float = 0.0

    #: Decodes have a kernel of their own.
    joint: ClassVar[float] = 0.0

    def seconds(self, work: AttentionWork, machine: Machine) -> float:
        """Time of the prefills of ``work``."""
        total = blocks = longest = moved = 0.0
        for (new, context), times in _counted(work.prefills).items():
            absorbed = new <= self.absorbed
            width, rows, queries, heads = self._blocks(work, absorbed)
            key = 2.0 * rows * width * machine.cores / (self.compute * machine.flops)
            count = math.ceil(new / queries)
            through = block_keys(new, context, count, queries, None)
            blocks += times * heads * count
            total += times * heads * (count * self.tile + through * key)
            longest = max(longest, self.tile + last_keys(new + context, queries, None) * key)
            moved += times * (_LATENT_QUERY * new if absorbed else new + context)
        if blocks == 0.0:
            return 0.0
        beside = self.token * work.query_tokens + self.query * moved * work.heads
        tiled = rounds_seconds(total, blocks, longest, machine.cores, self.smoothing, self.tail)
        return self.launch + beside / machine.cores + tiled

    def _blocks(self, work: AttentionWork, absorbed: bool) -> tuple[float, float, float, int]:
        """Of a sequence's blocks: width of a key, rows, queries, and heads they are made for."""
        width = float(work.head_dim + work.value_dim)
        if absorbed:
            return _LATENT_WIDTH * width + _SOFTMAX, _LATENT_ROWS, _LATENT_ROWS / work.heads, 1
        return width + _SOFTMAX, self.rows, self.rows, work.heads


def _counted(prefills: tuple[tuple[int, int], ...]) -> dict[tuple[int, int], int]:
    """How many prefills there are of each size, in order."""
    counts: dict[tuple[int, int], int] = {}
    for prefill in prefills:
        counts[prefill] = counts.get(prefill, 0) + 1
    return counts
