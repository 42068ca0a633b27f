"""Which of their full blocks layers that see a window, or keep a state, let others find."""

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
        seen = _seen(group)
        if seen is None:
            return True
        each = (self.align if self.interval is None else self.interval) // group.block_size
        if each > 0 and block % each >= each - seen:
            return True
        if self.interval is None:
            return False
        for tokens in ends:
            end = tokens // self.align * self.align // group.block_size
            if end - seen <= block < end:
                return True
        return False


def _seen(group: KvGroup) -> int | None:
    """Full blocks that the token after them needs; None for all that layers of ``group`` have."""
    if group.cache.kind == "state":
        return 1
    if group.cache.kind == "window" and group.cache.window is not None:
        return blocks_for(group.cache.window - 1, group.block_size)
    return None
