"""Free KV blocks in the order in which they will be reused."""

from __future__ import annotations

from collections import OrderedDict


class FreeList:
    """Blocks 1..total: those that hold nothing of use come first, then the least lately released.

    Block 0 stays reserved, as in vLLM. Blocks never used need no memory.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._unused = 1
        self._blank: list[int] = []
        self._cached: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return self._total + 1 - self._unused + len(self._blank) + len(self._cached)

    def take(self) -> int:
        """The next block to reuse.

        Raises:
            KeyError: none is free.
        """
        if self._blank:
            return self._blank.pop()
        if self._unused <= self._total:
            self._unused += 1
            return self._unused - 1
        return self._cached.popitem(last=False)[0]

    def reuse(self, block: int) -> None:
        """Take the cached ``block`` for what it holds."""
        del self._cached[block]

    def put_cached(self, block: int) -> None:
        """Return a block that others may find, behind all others."""
        self._cached[block] = None

    def put_blank(self, block: int) -> None:
        """Return a block that nobody can find, before all others."""
        self._blank.append(block)
