"""The sequences of a batch as vLLM lays them out in a paged cache."""

from __future__ import annotations

import random as random_module
from typing import Any

from servesim.graph.work import AttentionWork

#: Places in the cache, at most: of the smallest batches, more would take long to prepare.
_PLACES = 1024


class Sequences:
    """Decodes first, then prefills."""

    def __init__(self, work: AttentionWork) -> None:
        import torch

        mean = work.decode_keys // work.decodes if work.decodes else 0
        self.new = [1] * work.decodes + [new for new, _ in work.prefills]
        self.keys = [mean] * work.decodes + [new + context for new, context in work.prefills]
        self.tokens = sum(self.new)
        starts = torch.tensor([0, *self.new], dtype=torch.int32)
        self.starts = starts.cumsum(0, dtype=torch.int32)
        self.lengths = torch.tensor(self.keys, dtype=torch.int32)

    def blocks(self, size: int) -> int:
        """Blocks that their keys take."""
        return sum(-(-keys // size) for keys in self.keys)

    def table(self, size: int) -> Any:
        """Block table when blocks of ``size`` tokens are dealt out from the first on."""
        import torch

        counts = [-(-keys // size) for keys in self.keys]
        table, first = torch.zeros((len(counts), max(counts)), dtype=torch.int32), 0
        for row, count in enumerate(counts):
            table[row, :count] = torch.arange(first, first + count, dtype=torch.int32)
            first += count
        return table

    def slots(self, table: Any, size: int) -> Any:
        """Where the new tokens go."""
        import torch

        found = []
        for row, (new, keys) in enumerate(zip(self.new, self.keys, strict=True)):
            position = torch.arange(keys - new, keys)
            found.append(table[row, position // size].long() * size + position % size)
        return torch.cat(found)

    def places(self, size: int, cache_blocks: int) -> list[tuple[Any, Any]]:
        """Block tables and slots all over a cache of so many blocks, no two of them overlapping.

        Calls that take them in turn find no key in a processor's cache: they come back to a place
        once they have read all others, as an engine does that reads all its layers in between.
        The order is random, and that of this batch.
        """
        table = self.table(size)
        slots = self.slots(table, size)
        need = self.blocks(size)
        firsts = [need * i for i in range(max(1, min(_PLACES, cache_blocks // need)))]
        random_module.Random(str((self.new, self.keys))).shuffle(firsts)
        return [(table + first, slots + first * size) for first in firsts]
