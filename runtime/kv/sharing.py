"""KV blocks that several decoding sequences hold: their kernels read the same keys again."""

from __future__ import annotations

from servesim.runtime.kv.cache import KVCache
from servesim.runtime.sequence import Sequence


class SharedBlocks:
    """Counts of the leading blocks of the sequences that decode.

    A sequence is looked at when it begins to decode. What it shares it found when it was admitted;
    blocks that it takes later count as its own, though another may find them before it ends.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._held: dict[int, list[int]] = {}  # leading blocks, by index of their sequence
        self._counted: set[int] = set()
        self._again: dict[int, int] = {}  # holders beyond the first, of blocks that have some
        self._repeated = 0

    @property
    def shared_tokens(self) -> int:
        """Tokens that several sequences hold, each counted once."""
        return len(self._again) * self._cache.block_size

    @property
    def repeated_tokens(self) -> int:
        """Tokens that sequences hold beside those they hold alone or first."""
        return self._repeated * self._cache.block_size

    def join(self, seq: Sequence) -> None:
        """``seq`` begins to decode."""
        blocks = self._cache.shareable(seq)
        if not blocks:
            return
        self._held[seq.index] = blocks
        fresh = self._counted.isdisjoint(blocks)  # mostly, and quick to see
        known = [] if fresh else [block for block in blocks if block in self._counted]
        self._counted.update(blocks)
        for block in known:
            self._again[block] = self._again.get(block, 0) + 1
        self._repeated += len(known)

    def leave(self, seq: Sequence) -> None:
        """``seq`` decodes no more."""
        blocks = self._held.pop(seq.index, [])
        alone = self._again.keys().isdisjoint(blocks)
        again = [] if alone else [block for block in blocks if block in self._again]
        own = blocks if alone else [block for block in blocks if block not in self._again]
        self._counted.difference_update(own)
        for block in again:
            self._again[block] -= 1
            if not self._again[block]:
                del self._again[block]
        self._repeated -= len(again)
