"""Keys that several decodes share: read from memory once, then from the last-level cache.

With prefix caching, sequences hold the same KV blocks. A kernel reads them for each sequence, and
finds them in the last-level cache from the second time on, if that holds them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from servesim.graph.work import AttentionWork, Work
from servesim.hardware.device import MemoryTier

Values = npt.NDArray[np.float64]


def share_found(held: Values | float) -> Values:
    """Share of what is read round and round that a cache finds which holds ``held`` of it.

    All if it holds all. A cache that replaces at random finds a share h = exp(-(1 - h) r) of what
    is r times as large (r = 2: 0.20, 3: 0.06); 1/r^2 (0.25, 0.11) is within 0.06 of it.
    """
    return np.asarray(np.minimum(1.0, held) ** 2)


def near_keys(work: AttentionWork, cache_bytes: float) -> float:
    """Of the keys that decodes read again, those that a cache of ``cache_bytes`` holds."""
    shared = work.shared_keys * work.kv_bytes_per_token
    return work.repeated_keys * float(share_found(cache_bytes / shared)) if shared else 0.0


def near_bytes(work: Work, cache: MemoryTier | None) -> float:
    """Of the bytes that ``work`` reads, those that ``cache`` delivers; 0 without one."""
    if cache is None or not isinstance(work, AttentionWork):
        return 0.0
    return near_keys(work, cache.capacity_bytes) * work.kv_bytes_per_token


def with_near_keys(work: AttentionWork, cache_bytes: float) -> AttentionWork:
    """``work``, its repeated keys being those alone that come from a cache of ``cache_bytes``."""
    near = int(near_keys(work, cache_bytes))
    return work if near == work.repeated_keys else replace(work, repeated_keys=near)
