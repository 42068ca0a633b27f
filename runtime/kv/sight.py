"""Which of the blocks of a group later tokens still need."""

from __future__ import annotations

import math
from collections.abc import Sequence

from servesim.graph.kv_layout import KvGroup


def keeps_all(group: KvGroup) -> bool:
    """Whether later tokens need every block."""
    return group.cache.window is None and group.cache.kind != "state"


def first_block(group: KvGroup, computed: int) -> int:
    """The first block that tokens after ``computed`` ones need.

    Of recurrent states they need the last one.
    """
    cache, size = group.cache, group.block_size
    if cache.kind == "state":
        return max(0, computed - 1) // size
    if cache.window is None:
        return 0
    if cache.kind == "chunked":
        return computed // cache.window * cache.window // size
    return max(0, computed - cache.window + 1) // size


def leaving(groups: Sequence[KvGroup], block_size: int, lag: int) -> list[int]:
    """Numbers of computed tokens, modulo ``block_size``, at which ``first_block`` may change.

    Args:
        lag: how many of the computed tokens are not out yet.
    """
    places = set()
    for group in groups:
        window = group.cache.window
        if group.cache.kind == "state":
            places.add(1)
        elif window and group.cache.kind == "chunked":
            places.update(range(0, block_size, math.gcd(window, block_size)))
        elif window:
            places.add(window - 1)
    return sorted({(place + lag) % block_size for place in places})
