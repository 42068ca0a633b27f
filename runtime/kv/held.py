"""The blocks of one pool by how many sequences hold each, and what the free ones still hold."""

from __future__ import annotations

from collections.abc import Sequence as Listed

from servesim.graph.kv_layout import KvGroup
from servesim.runtime.kv.block_index import GONE, BlockIndex
from servesim.runtime.kv.pool import FreeList
from servesim.runtime.kv.sight import keeps_all
from servesim.runtime.kv.table import Table


class HeldBlocks:
    """Blocks 1..total of one pool, each free or held by one sequence or several.

    Attributes:
        free: blocks that can be taken now.
        index: finds blocks by what they hold; one that is reused is forgotten.
    """

    def __init__(self, total: int, groups: Listed[KvGroup], block_size: int) -> None:
        self.free = total
        self.index = BlockIndex(groups, block_size)
        self._pool = FreeList(total)
        self._holders: dict[int, int] = {}  # by block

    def __contains__(self, block: int) -> bool:
        """Whether anyone holds ``block``."""
        return block in self._holders

    @property
    def findable(self) -> int:
        """Free blocks that keep content."""
        return len(self._pool.cached)

    def take(self, count: int) -> list[int]:
        """``count`` blocks, of which as many must be free, for one sequence to hold."""
        if count <= 0:
            return []
        blocks, evicted = self._pool.take(count)
        self.free -= count
        for block, _ in evicted:
            self.index.forget(block)
        self._holders.update(dict.fromkeys(blocks, 1))
        return blocks

    def share(self, block: int) -> None:
        """Let one sequence more hold ``block``, which the index found."""
        if block in self._holders:
            self._holders[block] += 1
        else:
            del self._pool.cached[block]
            self._holders[block] = 1
            self.free -= 1

    def let_go(self, table: Table, end: int) -> None:
        """Give back the blocks of ``table`` before number ``end``, the last first."""
        for i in range(end - 1, table.gone - 1, -1):
            block = table.blocks[i]
            if block == GONE:
                continue
            table.blocks[i] = GONE
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            del self._holders[block]
            self.free += 1
            if block in self.index or (i < table.registered and keeps_all(table.group)):
                self._pool.cached[block] = 0  # what it holds is in the index, if anyone can find it
            else:
                self._pool.put_blank([block])
        table.gone = end
