"""The KV cache with prefix caching: full blocks are found by the identity of their prefix."""

from __future__ import annotations

from collections.abc import Iterable

from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.kv.pool import FreeList
from servesim.runtime.sequence import Sequence


class PrefixCache:
    """Blocks that keep their content after release until they are taken for something else.

    A sequence's blocks are released last block first, so that the front of a prefix, which most
    others share, survives longest; blocks that are not full come back first of all.
    """

    def __init__(self, total: int, block_size: int) -> None:
        self.total = self.free = total
        self.block_size = block_size
        self.epoch = 0
        self._pool = FreeList(total)
        self._holders = [0]  # sequences that hold each block used so far
        self._identity: list[int | None] = [None]  # what each block used so far is known as
        self._blocks: dict[int, int] = {}  # identity -> the block to reuse
        self._copies: dict[int, list[int]] = {}  # identity -> further blocks that hold the same

    def find(self, seq: Sequence) -> list[int]:
        """Cached blocks from the start of ``seq``, leaving at least one token to compute."""
        found = []
        for number in range((seq.known - 1) // self.block_size):
            block = self._blocks.get(seq.identity(number))
            if block is None:
                break
            found.append(block)
        return found

    def admit(self, seq: Sequence, found: list[int], tokens: int, reserve: int) -> bool:
        """Share ``found`` and take new blocks for the rest of ``tokens``."""
        idle = [block for block in found if not self._holders[block]]
        need = blocks_for(max(tokens, reserve), self.block_size) - len(found) + len(idle)
        if need > self.free:
            return False
        for block in idle:
            self._pool.reuse(block)
        self.free -= len(idle)
        for block in found:
            self._holders[block] += 1
        seq.blocks = list(found)
        seq.registered = len(found)
        return self.grow(seq, tokens)

    def grow(self, seq: Sequence, tokens: int) -> bool:
        """Take the blocks that are missing for ``tokens``, if free."""
        missing = blocks_for(tokens, self.block_size) - len(seq.blocks)
        if missing > self.free:
            return False
        seq.blocks += [self._take() for _ in range(missing)]
        return True

    def extend(self, seqs: Iterable[Sequence]) -> None:
        """One block more for each, in order."""
        for seq in seqs:
            seq.blocks.append(self._take())

    def register(self, seq: Sequence, tokens: int) -> None:
        """Make the full blocks among the first ``tokens`` known by their identities."""
        for number in range(seq.registered, tokens // self.block_size):
            self._register_block(seq, number)

    def fill(self, seqs: Iterable[Sequence]) -> None:
        """Make all blocks of each known."""
        for seq in seqs:
            for number in range(seq.registered, len(seq.blocks)):
                self._register_block(seq, number)

    def release(self, seq: Sequence) -> None:
        """Take back all blocks, last first; those nobody else holds are free but keep content."""
        for block in reversed(seq.blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            self.free += 1
            if self._identity[block] is None:
                self._pool.put_blank(block)
            else:
                self._pool.put_cached(block)
        seq.blocks = []
        seq.registered = 0
        self.epoch += 1

    def _register_block(self, seq: Sequence, number: int) -> None:
        block, identity = seq.blocks[number], seq.identity(number)
        self._identity[block] = identity
        if identity >= 0:  # a waiting sequence may have been looking for it
            self.epoch += 1
        if self._blocks.setdefault(identity, block) != block:
            self._copies.setdefault(identity, []).append(block)
        seq.registered = number + 1

    def _take(self) -> int:
        block = self._pool.take()
        self.free -= 1
        if block == len(self._holders):
            self._holders.append(1)
            self._identity.append(None)
            return block
        self._holders[block] = 1
        identity = self._identity[block]
        if identity is not None:
            self._forget(block, identity)
        return block

    def _forget(self, block: int, identity: int) -> None:
        self._identity[block] = None
        copies = self._copies.get(identity)
        if copies is None:
            del self._blocks[identity]
            return
        if self._blocks[identity] == block:
            self._blocks[identity] = copies.pop(0)
        else:
            copies.remove(block)
        if not copies:
            del self._copies[identity]
