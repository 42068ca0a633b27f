"""KV caches: who holds what, what is found again, and what is evicted first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import request

from servesim.runtime.config import EngineConfig
from servesim.runtime.kv import build_cache
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.counting import CountingCache
from servesim.runtime.kv.hashing import PrefixHasher
from servesim.runtime.kv.pool import FreeList
from servesim.runtime.kv.prefix import PrefixCache
from servesim.runtime.sequence import Sequence, block_identities

SIZE = 4


def sequence(number: int, tokens: int, *ids: int) -> Sequence:
    spec = request(number, 0.0, tokens, 1, prefix_block_ids=ids, prefix_block_size=SIZE)
    return Sequence(spec, number, SIZE)


def admit(cache: KVCache, seq: Sequence) -> int:
    """Admit, compute and publish all of ``seq``; returns the blocks found in the cache."""
    found = cache.find(seq)
    assert cache.admit(seq, found, seq.known, 0)
    cache.register(seq, seq.known)
    return len(found)


def test_the_config_chooses_the_cache_and_one_block_is_never_used() -> None:
    assert isinstance(build_cache(EngineConfig(enable_prefix_caching=False), 9), CountingCache)
    cache = build_cache(EngineConfig(), 9)
    assert isinstance(cache, PrefixCache)
    assert (cache.total, cache.free) == (8, 8)


def test_equal_prefixes_share_blocks_and_one_token_is_always_computed() -> None:
    cache = PrefixCache(10, SIZE)
    first, second, exact = (
        sequence(0, 14, 1, 2, 3),
        sequence(1, 14, 1, 2, 9),
        sequence(2, 12, 1, 2, 3),
    )
    assert admit(cache, first) == 0
    assert admit(cache, second) == 2
    assert first.blocks[:2] == second.blocks[:2]
    assert cache.free == 10 - 4 - 2
    assert admit(cache, exact) == 2  # all three are there, but its last token must be computed


def test_a_hit_ends_at_the_first_block_missing() -> None:
    cache = PrefixCache(10, SIZE)
    admit(cache, sequence(0, 13, 1, 2, 3))
    assert cache.find(sequence(1, 17, 1, 7, 3, 4)) == [1]


def test_released_blocks_are_found_until_taken_for_something_else() -> None:
    cache = PrefixCache(6, SIZE)
    admit(cache, first := sequence(0, 12, 1, 2, 3))
    cache.release(first)
    assert cache.free == 6
    admit(cache, other := sequence(1, 16, 7, 8, 9, 10))
    cache.release(other)
    # Three unused blocks went first, then the tail of the first sequence.
    again = sequence(2, 13, 1, 2, 3)
    assert len(cache.find(again)) == 2


def test_blocks_that_hold_nothing_are_taken_before_cached_ones() -> None:
    cache = PrefixCache(4, SIZE)
    admit(cache, first := sequence(0, 15, 1, 2, 3))  # three full blocks and a part
    cache.release(first)
    admit(cache, sequence(1, 4, 9))
    assert len(cache.find(sequence(2, 13, 1, 2, 3))) == 3


def test_copies_of_a_block_stand_in_for_each_other() -> None:
    cache = PrefixCache(4, SIZE)
    one, two = sequence(0, 4, 1), sequence(1, 4, 1)  # neither finds it: their one block is all
    admit(cache, one)
    admit(cache, two)
    assert one.blocks != two.blocks
    cache.release(one)
    admit(cache, sequence(2, 12, 7, 8, 9))  # takes the two unused and the copy
    assert cache.find(sequence(3, 5, 1)) == two.blocks


@pytest.mark.parametrize("kind", [CountingCache, PrefixCache])
def test_a_refused_act_changes_nothing(kind: type[CountingCache] | type[PrefixCache]) -> None:
    cache = kind(3, SIZE)
    admit(cache, held := sequence(0, 8, 1, 2))
    late = sequence(1, 8, 5, 6)
    assert not cache.admit(late, [], 8, 0)
    assert not cache.admit(late, [], 4, 8)  # its first chunk fits, the reserve does not
    assert not cache.grow(held, 17)
    assert cache.free == 1
    assert cache.admit(late, [], 4, 4)
    cache.release(late)
    cache.release(held)
    assert cache.free == 3


def test_shared_blocks_that_nobody_holds_count_as_needed() -> None:
    cache = PrefixCache(3, SIZE)
    admit(cache, first := sequence(0, 8, 1, 2))
    cache.release(first)
    late = sequence(1, 16, 1, 2, 3, 4)
    assert not cache.admit(late, cache.find(late), 16, 0)  # 2 idle found and 2 new: 4 of 3


def test_the_epoch_grows_when_a_refused_sequence_might_fit() -> None:
    cache = PrefixCache(4, SIZE)
    holder, late = sequence(0, 12, 1, 2, 3), sequence(1, 16, 1, 2, 3, 4)
    assert cache.admit(holder, [], 12, 0)
    cache.register(holder, 8)
    assert not cache.admit(late, cache.find(late), 16, 0)  # 2 more, 1 is free
    epoch = cache.epoch
    cache.register(holder, 12)
    assert cache.epoch > epoch
    assert cache.admit(late, cache.find(late), 16, 0)
    epoch = cache.epoch
    cache.release(holder)
    assert cache.epoch > epoch


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), max_size=60))
@settings(max_examples=60)
def test_held_and_free_are_always_all(acts: list[tuple[int, int]]) -> None:
    cache, held = PrefixCache(12, SIZE), {}
    for number, (slot, tokens) in enumerate(acts):
        if slot in held:
            cache.release(held.pop(slot))
        else:
            seq = sequence(number, tokens, *range(slot % 2 * 100, slot % 2 * 100 + tokens // SIZE))
            if cache.admit(seq, cache.find(seq), tokens, 0):
                cache.register(seq, tokens)
                held[slot] = seq
        blocks = {block for seq in held.values() for block in seq.blocks}
        assert len(blocks) + cache.free == cache.total


def test_the_free_list_gives_blank_blocks_first_then_the_oldest() -> None:
    blocks = FreeList(3)
    assert blocks.take(3) == ([1, 2, 3], [])
    assert len(blocks) == 0
    blocks.cached[2] = 20
    blocks.cached[1] = 10
    blocks.put_blank([3])
    assert len(blocks) == 3
    assert blocks.take(2) == ([3, 2], [(2, 20)])
    with pytest.raises(KeyError):
        blocks.take(2)


def test_token_blocks_are_numbered_by_their_whole_prefix() -> None:
    hasher = PrefixHasher(2)
    assert hasher.identities([1, 2, 3, 4, 5]) == (0, 1)
    assert hasher.identities([1, 2, 9, 9]) == (0, 2)
    assert hasher.identities([3, 4, 1, 2]) == (3, 4)


@pytest.mark.parametrize(
    ("given_size", "size", "expected"),
    [(4, 4, (5, 6, 7)), (4, 8, (6,)), (4, 2, (10, 11, 12, 13, 14, 15)), (4, 3, ())],
)
def test_identities_in_blocks_of_another_size(
    given_size: int, size: int, expected: tuple[int, ...]
) -> None:
    spec = request(0, 0.0, 13, 1, prefix_block_ids=(5, 6, 7), prefix_block_size=given_size)
    assert block_identities(spec, size) == expected
