"""The KV cache with prefix caching: full blocks are found by the identity of their prefix."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.kv.pool import FreeList
from servesim.runtime.kv.whole import WholeCache
from servesim.runtime.sequence import Sequence


class PrefixCache(WholeCache):
    """Blocks that keep their content after release until they are taken for something else.

    A sequence's blocks are released last block first, so that the front of a prefix, which most
    others share, survives longest; blocks that are not full come back first of all.

    Blocks that no other sequence can have are entered in the index only when their sequence is
    preempted and will look for them: until then ``Sequence.registered`` is all that is kept.
    """

    def __init__(self, total: int, block_size: int) -> None:
        super().__init__(total, block_size)
        self._pool = FreeList(total)
        self._more_holders: dict[int, int] = {}  # of the blocks that several sequences hold
        self._index: dict[int, int] = {}  # identity -> the block to reuse
        self._copies: dict[int, list[int]] = {}  # identity -> further blocks that hold the same

    @property
    def filled(self) -> int:
        """Blocks held, and free ones that keep content."""
        return self.total - self.free + len(self._pool.cached)

    def find(self, seq: Sequence) -> list[int]:
        """Cached blocks from the start of ``seq``, leaving at least one token to compute."""
        limit = (seq.known - 1) // self.block_size
        found: list[int] = []
        for identity in chain(seq.shared[:limit], seq.unshared(len(seq.shared), limit)):
            block = self._index.get(identity)
            if block is None:
                break
            found.append(block)
        return found

    def admit(self, seq: Sequence, found: list[int], tokens: int, reserve: int) -> bool:
        """Share ``found`` and take new blocks for the rest of ``tokens``."""
        cached = self._pool.cached
        idle = sum(block in cached for block in found)
        need = blocks_for(max(tokens, reserve), self.block_size) - len(found) + idle
        if need > self.free:
            return False
        self.free -= idle
        for block in found:
            if cached.pop(block, None) is None:
                self._more_holders[block] = self._more_holders.get(block, 0) + 1
        seq.blocks = list(found)
        seq.registered = len(found)
        return self.grow(seq, tokens)

    def grow(self, seq: Sequence, tokens: int) -> bool:
        """Take the blocks that are missing for ``tokens``, if free."""
        missing = blocks_for(tokens, self.block_size) - len(seq.blocks)
        if missing > self.free:
            return False
        if missing > 0:
            seq.blocks += self._take(missing)
        return True

    def extend(self, seqs: Collection[Sequence]) -> None:
        """One block more for each, in order."""
        for seq, block in zip(seqs, self._take(len(seqs)), strict=True):
            seq.blocks.append(block)

    def register(self, seq: Sequence, tokens: int) -> None:
        """Make the full blocks among the first ``tokens`` known by their identities."""
        self._register(seq, tokens // self.block_size)

    def fill(self, seqs: Collection[Sequence]) -> None:
        """Make all blocks of each known."""
        for seq in seqs:
            if seq.registered < len(seq.shared):
                self._register(seq, len(seq.blocks))
            else:
                seq.registered = len(seq.blocks)

    def shareable(self, seq: Sequence) -> list[int]:
        """Those whose content others may know, shared by now or not."""
        return seq.blocks[: len(seq.shared)]

    def release(self, seq: Sequence, *, returns: bool = False) -> None:
        """Take back all blocks, last first; those nobody else holds are free but keep content."""
        blocks, registered = seq.blocks, seq.registered
        shared = min(registered, len(seq.shared))
        own = [*zip(blocks[shared:registered], seq.unshared(shared, registered), strict=True)]
        if returns:
            for block, identity in own:
                self._enter(identity, block)
        self._pool.put_blank(blocks[registered:])
        self._pool.cached.update(reversed(own))
        self.free += len(blocks) - shared
        for block, identity in zip(
            reversed(blocks[:shared]), reversed(seq.shared[:shared]), strict=True
        ):
            self._let_go(block, identity)
        self.epoch += 1
        seq.blocks = []
        seq.registered = 0

    def _register(self, seq: Sequence, full: int) -> None:
        shared = min(full, len(seq.shared))
        if seq.registered < shared:
            self.epoch += 1  # a waiting sequence may have been looking for them
            new = slice(seq.registered, shared)
            for identity, block in zip(seq.shared[new], seq.blocks[new], strict=True):
                self._enter(identity, block)
        seq.registered = max(seq.registered, full)

    def _enter(self, identity: int, block: int) -> None:
        if self._index.setdefault(identity, block) != block:
            self._copies.setdefault(identity, []).append(block)

    def _let_go(self, block: int, identity: int) -> None:
        more = self._more_holders.get(block, 0)
        if more > 1:
            self._more_holders[block] = more - 1
        elif more:
            del self._more_holders[block]
        else:
            self._pool.cached[block] = identity
            self.free += 1

    def _take(self, count: int) -> list[int]:
        blocks, evicted = self._pool.take(count)
        self.free -= count
        if evicted:
            self._lose(evicted)
        return blocks

    def _lose(self, evicted: list[tuple[int, int]]) -> None:
        """Forget what blocks held that were taken for something else."""
        for block, identity in evicted:
            if identity in self._index:
                self._forget(block, identity)

    def _forget(self, block: int, identity: int) -> None:
        copies = self._copies.get(identity, [])
        if self._index[identity] != block:
            if block in copies:
                copies.remove(block)
        elif copies:
            self._index[identity] = copies.pop(0)
        else:
            del self._index[identity]
        if not copies:
            self._copies.pop(identity, None)
