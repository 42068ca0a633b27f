"""Blocks of layer groups by what they hold, so that equal prefixes find them."""

from __future__ import annotations

from collections.abc import Sequence as Listed

from servesim.graph.kv_layout import KvGroup
from servesim.runtime.kv.sight import first_block
from servesim.runtime.sequence import Sequence

#: Stands in a block table for a block that was given back; the pool has no such block.
GONE = 0


class BlockIndex:
    """Which blocks hold what of each group.

    Args:
        block_size: tokens of the smallest group's blocks; those of the others are multiples.
    """

    def __init__(self, groups: Listed[KvGroup], block_size: int) -> None:
        self._groups = groups
        self._block_size = block_size
        self._blocks: dict[int, dict[int, None]] = {}  # by key, the first to be reused
        self._keys: dict[int, int] = {}  # by block

    def __contains__(self, block: int) -> bool:
        """Whether others can find ``block``."""
        return block in self._keys

    def enter(self, seq: Sequence, g: int, i: int, block: int) -> int:
        """Let others find ``block``, number ``i`` of ``seq`` in group ``g``; returns its key."""
        key = self._key(seq, g, i)
        self._blocks.setdefault(key, {})[block] = None
        self._keys[block] = key
        return key

    def forget(self, block: int) -> None:
        """``block`` will hold something else."""
        key = self._keys.pop(block, None)
        if key is not None:
            del self._blocks[key][block]
            if not self._blocks[key]:
                del self._blocks[key]

    def first(self, seq: Sequence, g: int, i: int) -> int:
        """The block to reuse; none where only a window's later blocks are there."""
        return next(iter(self._blocks.get(self._key(seq, g, i), {})), GONE)

    def needed(self, seq: Sequence, g: int, prefix: int) -> list[int]:
        """Blocks of a group that the token after ``prefix`` ones needs."""
        group = self._groups[g]
        needed = range(first_block(group, prefix), prefix // group.block_size)
        return [self.first(seq, g, i) for i in needed]

    def prefix(self, seq: Sequence, g: int, limit: int) -> int:
        """Smallest blocks before ``limit`` in whose place a group has all its blocks."""
        ratio = self._groups[g].block_size // self._block_size
        for i in range(limit // ratio):
            if self._key(seq, g, i) not in self._blocks:
                return i * ratio
        return limit - limit % ratio

    def runs(self, seq: Sequence, g: int, limit: int) -> list[int]:
        """For each length in blocks of a group, how many in a row before it are there."""
        runs = [0]
        for i in range(limit * self._block_size // self._groups[g].block_size):
            runs.append(runs[-1] + 1 if self._key(seq, g, i) in self._blocks else 0)
        return runs

    def suffices(self, g: int, runs: list[int], prefix: int) -> bool:
        """Whether a group has what the token after ``prefix`` ones needs, given its ``runs``."""
        group = self._groups[g]
        full = prefix // group.block_size
        return runs[full] >= full - first_block(group, prefix)

    def last_key(self, seq: Sequence, g: int, prefix: int) -> int:
        """The key of a group's last block before token ``prefix``."""
        return self._key(seq, g, prefix // self._groups[g].block_size - 1)

    def _key(self, seq: Sequence, g: int, i: int) -> int:
        """Identity of what block ``i`` of group ``g`` holds."""
        last = (i + 1) * (self._groups[g].block_size // self._block_size) - 1
        identity = seq.shared[last] if last < len(seq.shared) else seq.unshared(last, last + 1)[0]
        return identity * len(self._groups) + g
