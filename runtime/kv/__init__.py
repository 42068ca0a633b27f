"""KV caches: which blocks a sequence holds, and which of them others can reuse."""

from __future__ import annotations

from servesim.runtime.config import EngineConfig
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.counting import CountingCache
from servesim.runtime.kv.prefix import PrefixCache


def build_cache(config: EngineConfig, num_gpu_blocks: int) -> KVCache:
    """The cache that ``config`` asks for; one of the ``num_gpu_blocks`` is never used."""
    kind = PrefixCache if config.enable_prefix_caching else CountingCache
    return kind(num_gpu_blocks - 1, config.block_size)
