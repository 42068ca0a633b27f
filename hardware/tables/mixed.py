"""Seconds of attention for any batch, from a grid measured with one prefill chunk."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from servesim.graph.work import AttentionWork, attended_pairs
from servesim.hardware.cost import Cost, Source
from servesim.hardware.tables.attention import AttentionGrid, PhaseGrid
from servesim.hardware.tables.skew import Skew

Prefills = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class AttentionTable:
    """Attention by batch: the grid, and what unequal contexts add.

    Several prefills in a step count as the one chunk with as many query tokens Q and as many
    (query, key) pairs P: the thread blocks of the kernel and their arithmetic are the same. Its
    context is (P − Q(Q+1)/2)/Q. Fresh prompts side by side have fewer pairs than one chunk of Q
    tokens on an empty context; their time follows the slope in the context below zero, as each
    block does its fixed work whatever the keys. A step never takes less than with any one of its
    prefills alone. Chunks longer than measured are cut into measured ones, each on the context
    before it.

    Decodes of unequal contexts cost alpha of the way from all at the mean to all at the longest:
    beside a prefill at their own count, alone at the next measured one (see ``_tail``).
    """

    grid: AttentionGrid | PhaseGrid
    skew: Skew | None = None

    def cost(self, work: AttentionWork) -> Cost:
        """The cost of ``work``; its heads are those of the measured model."""
        if not work.query_tokens:
            return Cost(0.0, Source.MEASURED)
        if work.window is not None:
            prefills: Prefills = [_unwindowed(n, c, work.window) for n, c in work.prefills]
        else:
            prefills = work.prefills
        seconds = self.seconds(prefills, work.decodes, work.decode_keys, work.decode_keys_max)
        mean = work.decode_keys / work.decodes - 1 if work.decodes else 0.0
        inside = self._covers(prefills, work.decodes, mean)
        return Cost(seconds, Source.MEASURED if inside else Source.EXTRAPOLATED)

    def seconds(
        self, prefills: Prefills, decodes: int, decode_keys: float, longest_keys: float
    ) -> float:
        """Seconds of a batch.

        Args:
            prefills: (new tokens, context) of each.
            decodes: sequences with one new token.
            decode_keys: keys all decodes read together, own tokens included.
            longest_keys: the most keys one of them reads.
        """
        mean = decode_keys / decodes - 1 if decodes else 0.0
        longest = longest_keys - 1
        uneven = self.skew is not None and decodes > 1 and longest > mean
        if not prefills:
            seconds = self.grid.decode_seconds(decodes, mean)
            return seconds + self._tail(decodes, mean, longest) if uneven else seconds
        seconds = self._mixed(prefills, decodes, mean)
        if self.skew is None or not uneven:
            return seconds
        alpha = self.skew.at(sum(new for new, _ in prefills), decodes, longest)
        return seconds + alpha * (self._mixed(prefills, decodes, longest) - seconds)

    def _tail(self, decodes: int, mean: float, longest: float) -> float:
        """Seconds by which decodes of unequal contexts outlast equal ones.

        Kernels stop splitting a sequence among thread blocks once the batch fills the device; the
        tail appears there, between two measured counts, and then hardly depends on the count.
        The larger count, which shares more of the range below it, decides.
        """
        assert self.skew is not None
        counts = self.skew.decodes
        count = max(decodes, counts[min(bisect_left(counts, decodes), len(counts) - 1)])
        alpha = self.skew.at(0, count, longest)
        if not alpha:
            return 0.0
        grid = self.grid
        return alpha * (grid.decode_seconds(count, longest) - grid.decode_seconds(count, mean))

    def _mixed(self, prefills: Prefills, decodes: int, mean: float) -> float:
        if len(prefills) == 1 and prefills[0][1] >= 0:
            return self._chunk(*prefills[0], decodes, mean)
        tokens = sum(new for new, _ in prefills)
        pairs = sum(attended_pairs(new, context) for new, context in prefills)
        context = (pairs - tokens * (tokens + 1) / 2) / tokens
        seconds = self._chunk(tokens, max(context, 0.0), decodes, mean)
        if context < 0:
            reach = next((c for c in self.grid.chunk_contexts if c >= tokens), 0)
            reach = reach or self.grid.chunk_contexts[-1]
            seconds += context * (self._chunk(tokens, reach, decodes, mean) - seconds) / reach
        alone = (self._chunk(new, max(before, 0), decodes, mean) for new, before in prefills)
        return max(seconds, *alone)

    def _chunk(self, tokens: int, context: float, decodes: int, mean: float) -> float:
        """One prefill chunk beside decodes, cut into measured lengths when it is longer."""
        limit = self.grid.chunks[-1]
        seconds = 0.0
        while tokens > limit:
            seconds += self.grid.mixed_seconds(limit, context, decodes, mean)
            tokens, context, decodes = tokens - limit, context + limit, 0
        return seconds + self.grid.mixed_seconds(tokens, context, decodes, mean)

    def _covers(self, prefills: Prefills, decodes: int, mean: float) -> bool:
        """Whether a batch lies within what was measured."""
        if not prefills:
            return self.grid.covers_decodes(decodes, mean)
        tokens = sum(new for new, _ in prefills)
        context = max(context for _, context in prefills)
        return self.grid.covers(tokens, context, decodes, mean)


def _unwindowed(new: int, context: int, window: int) -> tuple[int, int]:
    """(new, context) without a window that attends to as many pairs, to within one a token.

    The context is negative where the window hides part of the chunk itself.
    """
    pairs = attended_pairs(new, context, window)
    return new, (pairs - new * (new + 1) // 2) // new
