"""What a scheduler may ask of a KV cache: ask, then act; a refused act changes nothing."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Listed
from typing import Protocol, runtime_checkable

from servesim.runtime.sequence import Sequence


@runtime_checkable
class KVCache(Protocol):
    """Blocks of ``block_size`` tokens, each held by sequences or free; held + free = total.

    Attributes:
        total: blocks that sequences can hold.
        free: blocks that can be taken now.
        filled: blocks with content: held ones, and free ones that can still be found.
        epoch: grows whenever an admission that was refused might succeed.
        groups: blocks that ``block_size`` tokens take at most.
        moving: numbers of computed tokens, modulo the block size, at which a decode may hold a
            block that it does not need any more.
    """

    block_size: int
    total: int
    epoch: int
    groups: int
    moving: Listed[int]

    @property
    def free(self) -> int:
        """See above."""

    @property
    def filled(self) -> int:
        """See above."""

    def blocks_of(self, tokens: int) -> int:
        """Most blocks that a sequence of ``tokens`` may hold at once."""

    def start_step(self) -> None:
        """Learn that a step is about to be scheduled."""

    def cut(self, seq: Sequence, computed: int, new: int) -> int:
        """Of ``new`` tokens after ``computed`` ones, how many a step may compute."""

    def find(self, seq: Sequence) -> list[int]:
        """Cached blocks that hold a prefix of ``seq``; never all its known tokens."""

    def recall(self, seq: Sequence, computed: int) -> int:
        """Tokens after ``computed`` that can be had from memories below; admission takes them.

        Whole blocks from the end of those found on; never all known tokens.
        """

    def admit(self, seq: Sequence, found: list[int], tokens: int, reserve: int) -> bool:
        """Give ``seq`` the ``found`` blocks and new ones for ``tokens`` in all.

        Refused (False) unless new blocks for ``reserve`` tokens are free.
        """

    def settle(self, seq: Sequence, tokens: int) -> None:
        """Learn that the first ``tokens`` of ``seq`` are out: what none after them sees is free."""

    def grow(self, seq: Sequence, tokens: int) -> bool:
        """Let ``seq`` hold ``tokens`` in all; refused (False) unless the blocks are free."""

    def extend(self, seqs: Collection[Sequence]) -> None:
        """Give each sequence one block more; at least as many must be free."""

    def register(self, seq: Sequence, tokens: int) -> None:
        """Let others find the full blocks among the first ``tokens`` of ``seq``."""

    def fill(self, seqs: Collection[Sequence]) -> None:
        """Let others find all blocks that the sequences hold; each of them must be full."""

    def shareable(self, seq: Sequence) -> list[int]:
        """Leading blocks of ``seq`` that others may hold, too, of layers that attend to all."""

    def release(self, seq: Sequence, *, returns: bool = False) -> None:
        """Take back all blocks of ``seq``; ``returns`` if it will be computed again."""


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold ``tokens``."""
    return -(-tokens // block_size)
