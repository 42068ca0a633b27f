"""KV blocks that several decoding sequences hold: their kernels read the same keys again."""

from __future__ import annotations

from servesim.runtime.kv.cache import KVCache
from servesim.runtime.sequence import Sequence


class SharedBlocks:
    """Counts of the leading blocks of the sequences that decode.

    A sequence is looked at when it begins to decode: what it shares it found when it was admitted,
    and blocks it takes later are its own until its like are admitted.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._held: dict[int, list[int]] = {}  # leading blocks, by index of their sequence
        self._once: set[int] = set()
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
        known = [block for block in blocks if block in self._once]
        self._once.update(blocks)
        for block in known:
            self._again[block] = self._again.get(block, 0) + 1
        self._repeated += len(known)

    def leave(self, seq: Sequence) -> None:
        """``seq`` decodes no more."""
        blocks = self._held.pop(seq.index, [])
        again = [block for block in blocks if block in self._again]
        self._once.difference_update(block for block in blocks if block not in self._again)
        for block in again:
            self._again[block] -= 1
            if not self._again[block]:
                del self._again[block]
        self._repeated -= len(again)
