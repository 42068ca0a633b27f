"""Keys that several decodes share: read from memory once, then from the last-level cache.

With prefix caching, sequences hold the same KV blocks. A kernel reads them for each sequence, and
finds them in the last-level cache from the second time on, if that holds them.
"""

from __future__ import annotations

from dataclasses import replace

from servesim.graph.work import AttentionWork, Work
from servesim.hardware.device import MemoryTier


def near_keys(work: AttentionWork, cache_bytes: float) -> float:
    """Of the keys that decodes read again, those that a cache of ``cache_bytes`` holds.

    All of them if it holds all that is shared. A cache that replaces at random, and is read round
    and round, finds a share h = exp(-(1 - h) r) of what is r times as large (r = 2: 0.20, 3: 0.06);
    1/r^2 (0.25, 0.11) is within 0.06 of it.
    """
    shared = work.shared_keys * work.kv_bytes_per_token
    return work.repeated_keys * min(1.0, cache_bytes / shared) ** 2 if shared else 0.0


def near_bytes(work: Work, cache: MemoryTier | None) -> float:
    """Of the bytes that ``work`` reads, those that ``cache`` delivers; 0 without one."""
    if cache is None or not isinstance(work, AttentionWork):
        return 0.0
    return near_keys(work, cache.capacity_bytes) * work.kv_bytes_per_token


def with_near_keys(work: AttentionWork, cache_bytes: float) -> AttentionWork:
    """``work``, its repeated keys being those alone that come from a cache of ``cache_bytes``."""
    near = int(near_keys(work, cache_bytes))
    return work if near == work.repeated_keys else replace(work, repeated_keys=near)
