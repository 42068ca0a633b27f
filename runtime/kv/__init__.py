"""KV caches: which blocks a sequence holds, and which of them others can reuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
        return _grouped(config, total, groups)
    if caching and all(group.cache.kind != "state" for group in groups):
        return PrefixCache(total, config.block_size)
    return CountingCache(total, config.block_size)


def _grouped(config: EngineConfig, total: int, groups: Sequence[KvGroup]) -> GroupedCache:
    """With caching, a recurrent state is kept at the ends of blocks as long as attention's."""
    attention = [group.block_size for group in groups if group.cache.kind != "state"]
    caching = config.enable_prefix_caching and bool(attention)
    if caching:
        groups = [
            replace(group, block_size=min(attention)) if group.cache.kind == "state" else group
            for group in groups
        ]
    step, threshold = config.limits.max_num_batched_tokens, config.long_prefill_token_threshold
    lag = int(config.async_scheduling)
    return GroupedCache(
        total,
        groups,
        (1 + lag) * step,
        caching=caching,
        retention=config.prefix_cache_retention_interval,
        most_new=min(step, threshold or step),
        lag=lag,
    )
