"""KV caches: which blocks a sequence holds, and which of them others can reuse."""

from __future__ import annotations

from collections.abc import Sequence

from servesim.errors import UnsupportedError
from servesim.graph.kv_layout import KvGroup
from servesim.runtime.config import EngineConfig
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.counting import CountingCache
from servesim.runtime.kv.grouped import GroupedCache
from servesim.runtime.kv.prefix import PrefixCache
from servesim.runtime.kv.tiered import TieredCache
from servesim.runtime.tiers.hierarchy import Hierarchy


def build_cache(
    config: EngineConfig,
    num_gpu_blocks: int,
    groups: Sequence[KvGroup] = (),
    tiers: Hierarchy | None = None,
) -> KVCache:
    """The cache that ``config`` asks for; one of the ``num_gpu_blocks`` is never used.

    Args:
        groups: layers by what they keep; not needed where all keep every token.
        tiers: memories below.

    Raises:
        UnsupportedError: tiers without prefix caching, or for several groups.
    """
    caching, total = config.enable_prefix_caching, num_gpu_blocks - 1
    if tiers is not None:
        windows = any(group.cache.window or group.cache.kind == "state" for group in groups)
        if not caching or len(groups) > 1 or windows:
            raise UnsupportedError(
                "KV tiers need prefix caching, and a model whose layers all keep every token"
            )
        return TieredCache(total, config.block_size, tiers)
    if len(groups) > 1 or any(group.cache.window for group in groups):
        return GroupedCache(
            total,
            groups,
            config.limits.max_num_batched_tokens,
            caching=caching,
            every_token=not config.async_scheduling,
            retention=config.prefix_cache_retention_interval,
        )
    if caching and all(group.cache.kind != "state" for group in groups):
        return PrefixCache(total, config.block_size)
    return CountingCache(total, config.block_size)
