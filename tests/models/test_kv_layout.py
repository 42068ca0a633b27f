"""KV blocks: one group for plain models, equal groups for hybrid ones, as vLLM lays them out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.errors import UnsupportedError
from servesim.graph.kv_layout import KvLayout, lay_out
from servesim.graph.opgraph import CacheGroup


def layers(count: int, start: int = 0) -> tuple[int, ...]:
    return tuple(range(start, start + count))


def full(count: int, token: float = 4096.0) -> CacheGroup:
    return CacheGroup("full", layers(count), token)


def window(count: int, size: int = 1024, token: float = 4096.0) -> CacheGroup:
    return CacheGroup("window", layers(count, 1000), token, window=size)


def state(count: int, size: float) -> CacheGroup:
    return CacheGroup("state", layers(count, 2000), 0.0, state_bytes=size)


def counts(layout: KvLayout) -> list[tuple[str, int]]:
    return [(group.cache.kind, group.layers) for group in layout.groups]


def test_a_plain_model_has_one_group() -> None:
    layout = lay_out([full(32)], 16, 8192)
    assert counts(layout) == [("full", 32)]
    assert layout.block_bytes == 32 * 16 * 4096
    blocks = layout.blocks(10.5 * layout.block_bytes)
    assert (blocks, layout.tokens(blocks)) == (10, 160)


def test_layers_of_different_width_that_keep_everything_are_one_group() -> None:
    layout = lay_out([full(4), CacheGroup("latent", layers(2, 50), 1152.0)], 16, 8192)
    assert layout.block_bytes == 16 * (4 * 4096 + 2 * 1152)


def test_every_layer_windowed_alike_is_one_group() -> None:
    assert counts(lay_out([window(32)], 16, 8192)) == [("window", 32)]


def test_gemma_3_4b() -> None:
    """29 windowed and 5 full layers: groups of 5, one of them with a padded layer.

    vLLM 0.19 reported 204817 blocks and 468144 tokens for it.
    """
    layout = lay_out([full(5), window(29)], 16, 8192)
    assert sorted(counts(layout)) == [("full", 5), ("window", 4)] + [("window", 5)] * 5
    assert layout.block_bytes == 5 * 16 * 4096
    assert layout.tokens(204817) == 468144


def test_nearly_equal_kinds_are_padded_to_the_larger() -> None:
    """12 and 13 layers: two groups and a pool of 13, not groups of one."""
    layout = lay_out([full(13), window(12)], 16, 8192)
    assert counts(layout) == [("full", 13), ("window", 12)]
    assert layout.block_bytes == 13 * 16 * 4096


def test_a_recurrent_state_takes_a_page() -> None:
    """A state of 100 tokens' KV: blocks of 112 tokens, the next multiple of 16."""
    layout = lay_out([full(4), state(28, 100 * 4096.0)], 16, 8192)
    assert {g.block_size for g in layout.groups if g.cache.kind == "full"} == {112}
    assert layout.page_bytes == 112 * 4096
    assert counts(layout) == [("full", 4)] + [("state", 4)] * 7
    assert layout.tokens(80) == 10 * 112


def test_a_longer_block_is_kept_beside_small_states() -> None:
    layout = lay_out([full(4), state(4, 4096.0)], 64, 8192)
    assert {g.block_size for g in layout.groups if g.cache.kind == "full"} == {64}


def test_a_recurrent_model_has_a_block_a_sequence() -> None:
    layout = lay_out([state(64, 1000.0)], 16, 2048)
    assert layout.block_bytes == 64_000
    assert layout.bytes_for(2048, 8192) == layout.bytes_for(1, 8192) == 64_000


def test_narrow_layers_have_longer_blocks() -> None:
    layout = lay_out([full(8), window(8, token=1024.0)], 16, 8192)
    sizes = {group.cache.kind: group.block_size for group in layout.groups}
    assert sizes == {"full": 16, "window": 64}
    with pytest.raises(UnsupportedError, match="cannot be made equal"):
        lay_out([full(8), window(8, token=3000.0)], 16, 8192)


def test_a_model_without_cache() -> None:
    layout = lay_out([], 16, 8192)
    assert (layout.blocks(1e9), layout.tokens(0), layout.bytes_for(100, 100)) == (0, 0, 0.0)


def test_blocks_a_sequence_holds() -> None:
    layout = lay_out([full(2), window(2, size=100)], 16, 8192)
    kept = {group.cache.kind: group for group in layout.groups}
    assert kept["full"].blocks_for(1000, 64) == 63
    assert kept["window"].blocks_for(1000, 64) == 12  # 99 + 64 tokens, and one for the offset
    assert kept["window"].blocks_for(30, 64) == 3
    chunked = CacheGroup("chunked", layers(2, 60), 4096.0, window=100)
    kept = {g.cache.kind: g for g in lay_out([full(2), chunked], 16, 8192).groups}
    assert kept["chunked"].blocks_for(1000, 64) == 11  # 164 tokens


@given(
    st.lists(
        st.one_of(
            st.builds(full, st.integers(1, 40)),
            st.builds(window, st.integers(1, 40), st.sampled_from([128, 1024])),
            st.builds(state, st.integers(1, 40), st.floats(1, 1e7)),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 20000),
    st.integers(1, 8192),
)
def test_invariants(caches: list[CacheGroup], tokens: int, budget: int) -> None:
    layout = lay_out(caches, 16, 8192)
    # Every layer is in a group; no group has more layers than the pools.
    assert sum(g.layers for g in layout.groups) == sum(len(c.layers) for c in caches)
    assert max(g.layers for g in layout.groups) * layout.page_bytes <= layout.block_bytes * 1.0001
    # A block holds what its layers keep of its tokens.
    for group in layout.groups:
        own = group.cache.state_bytes or group.cache.bytes_per_token * group.block_size
        assert own <= layout.page_bytes * 1.0001
    # Longer sequences never need less.
    assert layout.bytes_for(tokens, budget) <= layout.bytes_for(tokens + 1, budget)
