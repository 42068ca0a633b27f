"""Free KV blocks in the order in which they will be reused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class FreeList:
    """Blocks 1..total: those that hold nothing of use come first, then the least lately released.

    Block 0 stays reserved, as in vLLM. Blocks never used need no memory.

    Attributes:
        cached: free blocks that still hold something, next to go first, with its identity.
    """

    def __init__(self, total: int) -> None:
        self.cached: OrderedDict[int, int] = OrderedDict()
        self._total = total
        self._unused = 1
        self._blank: list[int] = []

    def __len__(self) -> int:
        return self._total + 1 - self._unused + len(self._blank) + len(self.cached)

    def take(self, count: int) -> tuple[list[int], list[tuple[int, int]]]:
        """The next ``count`` blocks, and those of them that held something, with its identity.

        Raises:
            KeyError: fewer are free.
        """
        blank = min(count, len(self._blank))
        blocks = [self._blank.pop() for _ in range(blank)]
        unused = min(count - blank, self._total + 1 - self._unused)
        blocks += range(self._unused, self._unused + unused)
        self._unused += unused
        evicted = [self.cached.popitem(last=False) for _ in range(count - blank - unused)]
        blocks += [block for block, _ in evicted]
        return blocks, evicted

    def put_blank(self, blocks: Iterable[int]) -> None:
        """Return blocks that nobody can find, before all others."""
        self._blank.extend(blocks)
