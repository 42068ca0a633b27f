"""What is simple about a KV cache where every layer keeps every token."""

from __future__ import annotations

from collections.abc import Sequence as Listed

from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.sequence import Sequence


class WholeCache:
    """Blocks, each with all layers' share of ``block_size`` tokens; nothing leaves one early."""

    groups = 1
    moving: Listed[int] = ()

    def __init__(self, total: int, block_size: int) -> None:
        self.total = self.free = total
        self.block_size = block_size
        self.epoch = 0

    def blocks_of(self, tokens: int) -> int:
        """Blocks that hold ``tokens``."""
        return blocks_for(tokens, self.block_size)

    def start_step(self) -> None:
        """Nothing: blocks only change with their sequences."""

    def cut(self, seq: Sequence, computed: int, new: int) -> int:
        """All."""
        return new

    def recall(self, seq: Sequence, computed: int) -> int:
        """Nothing: there is no memory below."""
        return 0

    def settle(self, seq: Sequence, tokens: int) -> None:
        """Nothing: later tokens see all of them."""
