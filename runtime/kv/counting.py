"""The KV cache without prefix caching: blocks are alike, so they are counted."""

from __future__ import annotations

from collections.abc import Collection

from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.kv.whole import WholeCache
from servesim.runtime.sequence import Sequence


class CountingCache(WholeCache):
    """Blocks without identity."""

    @property
    def filled(self) -> int:
        """Blocks held."""
        return self.total - self.free

    def find(self, seq: Sequence) -> list[int]:
        """Nothing: no block outlives its sequence."""
        return []

    def admit(self, seq: Sequence, found: list[int], tokens: int, reserve: int) -> bool:
        """Take blocks for ``tokens`` if those for ``reserve`` are free."""
        return blocks_for(reserve, self.block_size) <= self.free and self.grow(seq, tokens)

    def grow(self, seq: Sequence, tokens: int) -> bool:
        """Take the blocks that are missing for ``tokens``, if free."""
        missing = blocks_for(tokens, self.block_size) - seq.held
        if missing > self.free:
            return False
        if missing > 0:
            self.free -= missing
            seq.held += missing
        return True

    def extend(self, seqs: Collection[Sequence]) -> None:
        """One block more for each."""
        for seq in seqs:
            seq.held += 1
            self.free -= 1

    def register(self, seq: Sequence, tokens: int) -> None:
        """Nothing: nobody looks blocks up."""

    def fill(self, seqs: Collection[Sequence]) -> None:
        """Nothing, likewise."""

    def shareable(self, seq: Sequence) -> list[int]:
        """None: every block is its sequence's own."""
        return []

    def release(self, seq: Sequence, *, returns: bool = False) -> None:
        """Take back all blocks of ``seq``."""
        self.free += seq.held
        self.epoch += 1
        seq.held = 0
