"""Which of their full blocks the layers with a window let others find."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.kv_layout import KvGroup
from servesim.runtime.kv.cache import blocks_for


@dataclass(frozen=True, slots=True)
class Retention:
    """vLLM's ``prefix_cache_retention_interval`` (0.32, ``v1/core/kv_cache_coordinator.py``).

    A prefix is found only where every group has what the next token sees. Blocks that no such place
    needs are not kept, so that they are the first to be reused.

    Attributes:
        interval: tokens between places where prefixes may end; 0 for no other than the end of the
            prompt and of what a sequence shares with one before it, None for every place.
        align: prefixes end at multiples of so many tokens.
    """

    interval: int | None
    align: int

    def keeps(self, group: KvGroup, ends: tuple[int, ...], block: int) -> bool:
        """Whether others can find full block ``block`` of a sequence in ``group``.

        Args:
            ends: tokens of the sequence before which a prefix may end, whatever the interval.
        """
        window = group.cache.window
        if self.interval is None or window is None or group.cache.kind != "window":
            return True
        seen = blocks_for(window - 1, group.block_size)
        for tokens in ends:
            end = tokens // self.align * self.align // group.block_size
            if end - seen <= block < end:
                return True
        each = self.interval // group.block_size
        return each > 0 and block % each >= each - seen
