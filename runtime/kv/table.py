"""The blocks that one sequence holds in one group of layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from servesim.graph.kv_layout import KvGroup
from servesim.runtime.kv.block_index import GONE
from servesim.runtime.kv.cache import blocks_for


@dataclass(slots=True)
class Table:
    """A block table.

    A group of recurrent states has blocks only where a step ended (vLLM's ``mamba_cache_mode``
    ``align``): the last of a step, and before it, in the same step, a checkpoint if there is one.

    Attributes:
        blocks: from the start of the sequence on; ``GONE`` where there is none.
        gone: leading blocks that were given back, or never were.
        registered: leading blocks that are full and known by their identity.
    """

    group: KvGroup
    blocks: list[int] = field(default_factory=list)
    gone: int = 0
    registered: int = 0

    def missing(self, tokens: int, checkpoint: int) -> int:
        """Blocks to take before it holds ``tokens``; ``checkpoint`` is 1 if a state is kept too."""
        missing = max(0, blocks_for(tokens, self.group.block_size) - len(self.blocks))
        return min(missing, 1 + checkpoint) if self.group.cache.kind == "state" else missing

    def extend(self, tokens: int, checkpoint: int, take: Callable[[int], list[int]]) -> None:
        """Take what is missing."""
        taken = take(self.missing(tokens, checkpoint))
        gap = blocks_for(tokens, self.group.block_size) - len(self.blocks) - len(taken)
        self.blocks += [GONE] * gap + taken
