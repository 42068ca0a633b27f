"""KV caches: which blocks a sequence holds, and which of them others can reuse."""

from __future__ import annotations

from collections.abc import Sequence

from servesim.graph.kv_layout import KvGroup
from servesim.runtime.config import EngineConfig
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.counting import CountingCache
from servesim.runtime.kv.grouped import GroupedCache
from servesim.runtime.kv.prefix import PrefixCache


def build_cache(
    config: EngineConfig, num_gpu_blocks: int, groups: Sequence[KvGroup] = ()
) -> KVCache:
    """The cache that ``config`` asks for; one of the ``num_gpu_blocks`` is never used.

    Args:
        groups: layers by what they keep; not needed where all keep every token.
    """
    caching, total = config.enable_prefix_caching, num_gpu_blocks - 1
    if len(groups) > 1 or any(group.cache.window for group in groups):
        return GroupedCache(total, groups, config.limits.max_num_batched_tokens, caching=caching)
    if caching and all(group.cache.kind != "state" for group in groups):
        return PrefixCache(total, config.block_size)
    return CountingCache(total, config.block_size)
