"""Identities of token blocks: equal ids mean an equal prefix."""

from __future__ import annotations

from collections.abc import Sequence


class PrefixHasher:
    """Numbers the full blocks of token sequences; a block's number stands for all before it too.

    Numbers are given in order of appearance, so that the same sequences in the same order get the
    same numbers, and there are no collisions.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._numbers: dict[tuple[int, tuple[int, ...]], int] = {}

    def identities(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Identity of each full block of ``tokens``."""
        numbers, size = self._numbers, self.block_size
        parent, found = -1, []
        for end in range(size, len(tokens) + 1, size):
            key = parent, tuple(tokens[end - size : end])
            parent = numbers.setdefault(key, len(numbers))
            found.append(parent)
        return tuple(found)
