"""The prefix cache of an engine with tiers below it."""

from __future__ import annotations

from collections.abc import Collection

from servesim.errors import InputError
from servesim.runtime.kv.prefix import PrefixCache
from servesim.runtime.sequence import Sequence
from servesim.runtime.tiers.hierarchy import NOTHING, Chunk, Hierarchy, Recall


class TieredCache(PrefixCache):
    """Tells the tiers which chunks are computed, displaced and wanted again.

    Raises:
        InputError: a chunk is not made of whole blocks.
    """

    def __init__(self, total: int, block_size: int, tiers: Hierarchy) -> None:
        super().__init__(total, block_size)
        size = tiers.offload.chunk_tokens
        if size % block_size:
            raise InputError(
                f"chunk_tokens {size} must be a multiple of the KV block size, {block_size}"
            )
        self._tiers = tiers
        self._blocks = size // block_size
        self._told: dict[int, int] = {}  # chunks computed so far, by sequence
        self._here: dict[int, Chunk] = {}  # that have their last block here, by its identity
        self._asked: tuple[Sequence, Recall] | None = None

    def recall(self, seq: Sequence, computed: int) -> int:
        """Tokens after ``computed`` that the tiers hold and that are worth recalling."""
        first = computed // self._tiers.offload.chunk_tokens
        last = (seq.known - 1) // self._tiers.offload.chunk_tokens
        found = self._tiers.find([self._chunk(seq, i) for i in range(first, last)], computed)
        self._asked = seq, found
        return found.tokens

    def admit(self, seq: Sequence, found: list[int], tokens: int, reserve: int) -> bool:
        """As without tiers; what they hold is recalled once there is room for it."""
        asked, self._asked = self._asked, None
        if not super().admit(seq, found, tokens, reserve):
            return False
        recall = asked[1] if asked is not None and asked[0] is seq else NOTHING
        self._tiers.accept(recall)
        if seq.cached_tokens is None:
            seq.recalled_tokens = recall.tokens
        for chunk, _ in recall.chunks:
            self._here[chunk.identity] = chunk
        self._told[seq.index] = (len(found) * self.block_size + recall.tokens) // (
            self._tiers.offload.chunk_tokens
        )
        return True

    def fill(self, seqs: Collection[Sequence]) -> None:
        """Make all blocks of each known."""
        for seq in seqs:
            self._register(seq, len(seq.blocks))

    def release(self, seq: Sequence, *, returns: bool = False) -> None:
        """Take back all blocks; what a preempted sequence computed may be swapped out."""
        if returns and self._tiers.offload.swap:
            for i in range(seq.registered // self._blocks):
                self._tiers.computed(self._chunk(seq, i), swapped=True)
        self._told.pop(seq.index, None)
        super().release(seq, returns=returns)

    def _register(self, seq: Sequence, full: int) -> None:
        super()._register(seq, full)
        told = self._told.get(seq.index, 0)
        for i in range(told, full // self._blocks):
            chunk = self._chunk(seq, i)
            self._here[chunk.identity] = chunk
            self._tiers.computed(chunk)
            self._told[seq.index] = i + 1

    def _lose(self, evicted: list[tuple[int, int]]) -> None:
        super()._lose(evicted)
        for _, identity in evicted:
            chunk = self._here.get(identity)
            if chunk is not None and identity not in self._index:
                del self._here[identity]
                self._tiers.lost(chunk)

    def _chunk(self, seq: Sequence, number: int) -> Chunk:
        last = (number + 1) * self._blocks - 1
        shared = seq.shared
        identity = shared[last] if last < len(shared) else seq.unshared(last, last + 1)[0]
        return Chunk(identity, number * self._tiers.offload.chunk_tokens)
