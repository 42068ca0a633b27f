"""The sequences of a batch as vLLM lays them out in a paged cache."""

from __future__ import annotations

import random as random_module
from dataclasses import dataclass
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.work import AttentionWork

#: Places in the cache, at most: of the smallest batches, more would take long to prepare.
_PLACES = 1024
#: Multiples of it, modulo 1, lie evenly in 0 to 1 however many there are.
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a cache a batch lies: block table, slots of its new tokens, keys of a sequence."""

    table: Any
    slots: Any
    lengths: Any


class Sequences:
    """Decodes first, then prefills; keys that decodes share lie in blocks of the first of them."""

    def __init__(self, work: AttentionWork) -> None:
        import torch

        mean = work.decode_keys // work.decodes if work.decodes else 0
        if mean == work.window:  # all of it is seen, as of sequences that have outgrown it
            mean *= 2
        self.decodes = work.decodes
        self.new = [1] * work.decodes + [new for new, _ in work.prefills]
        self.keys = [mean] * work.decodes + [new + context for new, context in work.prefills]
        self.tokens = sum(self.new)
        shared = work.shared_keys
        self._shared, self._sharers = shared, 1 + work.repeated_keys // shared if shared else 0
        starts = torch.tensor([0, *self.new], dtype=torch.int32)
        self.starts = starts.cumsum(0, dtype=torch.int32)

    def blocks(self, size: int) -> int:
        """Blocks that their keys take, wherever in its last block a decode ends."""
        again = max(0, self._sharers - 1) * (self._shared // size)
        return sum(self._counts(size)) - again

    def table(self, size: int) -> Any:
        """Block table when blocks of ``size`` tokens are dealt out from the first on.

        Raises:
            UnsupportedError: what is shared does not end with a block.
        """
        import torch

        if self._shared % size:
            raise UnsupportedError(f"blocks of {size} tokens do not share {self._shared} of them")
        counts = self._counts(size)
        table, first = torch.zeros((len(counts), max(counts)), dtype=torch.int32), 0
        for row, count in enumerate(counts):
            prefix = self._shared // size if 0 < row < self._sharers else 0
            table[row, :prefix] = table[0, :prefix]
            own = count - prefix
            table[row, prefix:count] = torch.arange(first, first + own, dtype=torch.int32)
            first += own
        return table

    def slots(self, place: Any, lengths: Any, size: int) -> Any:
        """Where the new tokens go, by block table and keys of the sequences."""
        import torch

        found = []
        for row, (new, keys) in enumerate(zip(self.new, lengths.tolist(), strict=True)):
            position = torch.arange(keys - new, keys)
            found.append(place[row, position // size].long() * size + position % size)
        return torch.cat(found)

    def places(self, size: int, cache_blocks: int) -> list[Place]:
        """Places all over a cache of so many blocks, no two of them overlapping.

        Calls that take them in turn find no key in a processor's cache: they come back to a place
        once they have read all others, as an engine does that reads all its layers in between.
        The order is random, and that of this batch.
        """
        need, table = self.blocks(size), self.table(size)
        firsts = [need * i for i in range(max(1, min(_PLACES, cache_blocks // need)))]
        random_module.Random(str((self.new, self.keys))).shuffle(firsts)
        found = []
        for turn, first in enumerate(firsts):
            lengths, rows = self.lengths(turn, size), table + first
            found.append(Place(rows, self.slots(rows, lengths, size), lengths))
        return found

    def lengths(self, turn: int, size: int) -> Any:
        """Keys of each sequence: decodes end evenly anywhere in a block, about their mean.

        Kernels read whole blocks: batches that all end where a block does would be read faster
        than any that an engine meets. Short ones end anywhere from one key to twice their mean.
        """
        import torch

        found = torch.tensor(self.keys, dtype=torch.int32)
        first = turn * self.decodes
        even = (torch.arange(first, first + self.decodes).double() * _GOLDEN) % 1.0
        spans = torch.tensor([_span(keys, size) for keys in self.keys[: self.decodes]])
        found[: self.decodes] += ((even - 0.5) * spans).round().int()
        return found.clamp_(min=1)

    def _counts(self, size: int) -> list[int]:
        most = [keys + _span(keys, size) // 2 for keys in self.keys[: self.decodes]]
        return [-(-keys // size) for keys in (*most, *self.keys[self.decodes :])]


def _span(keys: int, size: int) -> int:
    """Keys between the shortest and the longest decode: a block, or what keeps the mean."""
    return max(0, min(size, 2 * keys - 1))
