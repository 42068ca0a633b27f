"""KV caches with a block table for each layer group: windows, chunks and recurrent states."""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import replace
from typing import Any

import pytest
from drawn_requests import requests_that_share
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import Given, everything, request

from servesim.graph.kv_layout import KvGroup
from servesim.graph.opgraph import CacheGroup
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import EngineOptions, Instance
from servesim.runtime.kv import build_cache
from servesim.runtime.kv.counting import CountingCache
from servesim.runtime.kv.grouped import GroupedCache
from servesim.runtime.kv.prefix import PrefixCache
from servesim.runtime.kv.retention import Retention
from servesim.runtime.records import Records, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.sequence import Sequence
from servesim.runtime.step import LinearStepModel

SIZE = 4


def group(kind: str = "full", window: int | None = None, size: int = SIZE) -> KvGroup:
    state = 1.0 if kind == "state" else 0.0
    return KvGroup(CacheGroup(kind, (0,), 1.0 - state, window, state), size, 1)


FULL, WINDOW, CHUNKED = group(), group("window", 8), group("chunked", 8)
STATE = group("state", size=1 << 10)


def cache(
    *groups: KvGroup, total: int = 100, chunk: int = 1000, caching: bool = True
) -> GroupedCache:
    return GroupedCache(total, groups, chunk, caching=caching)


def sequence(number: int, tokens: int, *ids: int) -> Sequence:
    seq = Sequence(
        request(number, 0.0, tokens, 50, prefix_block_ids=ids, prefix_block_size=SIZE), number, SIZE
    )
    seq.ticket = number
    return seq


def prefill(kv: GroupedCache, seq: Sequence, tokens: int) -> int:
    """Admit ``seq`` and compute its first ``tokens``; returns the blocks found."""
    found = kv.find(seq)
    seq.computed = len(found) * SIZE
    assert kv.admit(seq, found, tokens, 0)
    kv.register(seq, tokens)
    seq.computed = tokens
    kv.start_step()
    kv.settle(seq, tokens)
    return len(found)


def test_the_layout_chooses_the_cache() -> None:
    config = EngineConfig()
    assert isinstance(build_cache(config, 9, [FULL]), PrefixCache)
    assert isinstance(build_cache(config, 9, [FULL, WINDOW]), GroupedCache)
    assert isinstance(build_cache(config, 9, [WINDOW]), GroupedCache)
    assert isinstance(build_cache(config, 9, [STATE]), CountingCache)


@pytest.mark.parametrize(
    ("kind", "tokens", "held"),
    [
        (WINDOW, 21, 6 - 3),  # tokens 14 to 21 are seen by the next: blocks 3, 4, 5
        (WINDOW, 19, 5 - 3),
        (WINDOW, 18, 5 - 2),
        (CHUNKED, 23, 6 - 4),  # the chunk of tokens 16 to 23
        (CHUNKED, 24, 0),
        (FULL, 21, 6),
    ],
)
def test_a_window_gives_back_what_no_later_token_sees(
    kind: KvGroup, tokens: int, held: int
) -> None:
    kv = cache(kind, caching=False)
    prefill(kv, sequence(0, 40), tokens)
    assert kv.total - kv.free == held


def test_a_decode_in_a_window_holds_no_more_blocks_however_long() -> None:
    kv = cache(FULL, WINDOW, total=1000)
    seq = sequence(0, 8)
    prefill(kv, seq, 8)
    seq.decoding = True
    for tokens in range(9, 400):
        kv.settle(seq, tokens - 1)
        assert kv.grow(seq, tokens)
        full, window = -(-tokens // SIZE), kv.total - kv.free - -(-tokens // SIZE)
        assert kv.total - kv.free == full + window
        assert window <= 8 // SIZE + 1
    kv.release(seq)
    assert kv.free == kv.total


@pytest.mark.parametrize(("lag", "changes"), [(0, [1, -1]), (1, [0, 0])])
def test_a_window_leaves_a_block_once_the_last_token_that_sees_it_is_out(
    lag: int, changes: list[int]
) -> None:
    # With 11 tokens computed the next one, number 11, sees 4 to 11: not block 0. As recorded of
    # vLLM 0.32 with blocks of 32 and a window of 128: given back at 159, block 5 taken at 160.
    kv = GroupedCache(100, (WINDOW,), 1000, caching=False, lag=lag)
    assert kv.moving == [(7 + lag) % SIZE]
    seq = sequence(0, 8)
    prefill(kv, seq, 8)
    seq.decoding = True
    free = {}
    for tokens in range(9, 14):
        kv.settle(seq, tokens - 1 - lag)
        assert kv.grow(seq, tokens)
        free[tokens] = kv.free
    assert [free[12] - free[11], free[13] - free[12]] == changes
    assert kv.total - kv.free == 3


def test_a_window_needs_no_block_more_than_its_sequence_has() -> None:
    # As recorded of vLLM 0.32: a prompt is admitted into just the blocks that it fills.
    seq = sequence(0, 13)
    assert cache(FULL, WINDOW, total=8).admit(seq, [], 13, reserve=13)
    assert not cache(FULL, WINDOW, total=7).admit(seq, [], 13, reserve=13)


@pytest.mark.parametrize(
    ("interval", "kept"), [(0, [2, 3]), (16, [2, 3, 6, 7]), (None, list(range(8)))]
)
def test_windows_keep_what_ends_where_prefixes_may_end(
    interval: int | None, kept: list[int]
) -> None:
    # A prompt of 20 tokens: a prefix of it ends at 16 at most, and sees 7 more tokens, two blocks.
    retention = Retention(interval, align=SIZE)
    assert [i for i in range(8) if retention.keeps(WINDOW, (19,), i)] == kept
    assert all(retention.keeps(FULL, (19,), i) for i in range(8))


def test_windows_keep_the_place_where_prefixes_part() -> None:
    # The second prompt shares 16 tokens, of which the window's layers kept nothing: a third finds
    # what the second has computed again.
    kv = GroupedCache(100, (FULL, WINDOW), 1000, caching=True, retention=0)
    for number, last in enumerate((8, 9, 10)):
        seq = sequence(number, 33, 1, 2, 3, 4, *(100 * last + i for i in range(4)))
        found = prefill(kv, seq, 33)
        kv.release(seq)
        assert found == (0, 0, 4)[number]


def test_without_caching_a_state_is_one_block() -> None:
    kv = cache(FULL, STATE, caching=False)
    prefill(kv, sequence(0, 13, 1, 2, 3), 13)
    assert kv.total - kv.free == 4 + 1
    assert kv.find(sequence(1, 13, 1, 2, 3)) == []


def test_a_prefix_needs_of_a_window_only_its_last_blocks() -> None:
    kv = cache(FULL, WINDOW, total=30)
    first = sequence(0, 33, *range(8))
    prefill(kv, first, 33)
    kv.release(first)
    again = sequence(1, 33, *range(8))
    assert prefill(kv, again, 33) == 8
    # The window of the next token after 32 begins at token 25: blocks 6 and 7 are shared.
    assert kv.total - kv.free == 9 + 2 + 1


def test_a_prefix_is_cut_where_a_window_lost_its_blocks() -> None:
    kv = cache(FULL, WINDOW, total=30)
    first = sequence(0, 41, *range(10))
    prefill(kv, first, 41)  # the window gave back blocks 0 to 7, which stay findable
    assert len(kv.find(sequence(1, 17, *range(4)))) == 4
    filler = sequence(2, 20 * SIZE)
    assert kv.admit(filler, [], SIZE * 7, 0)  # takes the 14 free blocks that hold nothing or most
    found = kv.find(sequence(3, 17, *range(4)))
    assert len(found) < 4
    assert (
        len(kv.find(sequence(4, 41, *range(10)))) == 10
    )  # the first one still holds what it needs


def test_admission_reserves_no_more_than_a_window_and_a_chunk() -> None:
    kv = cache(FULL, WINDOW, total=30, chunk=8)
    assert kv.blocks_of(80) == 20 + (8 - 1 + 8 + 3) // 4 + 1
    seq = sequence(0, 80)
    assert kv.admit(seq, [], 8, 80)
    kv.release(seq)
    assert not cache(FULL, WINDOW, total=24, chunk=8).admit(sequence(1, 80), [], 8, 80)


def run(
    requests: Listed[RequestSpec],
    groups: tuple[KvGroup, ...],
    blocks: int,
    *,
    visit_all: bool,
    **more: Any,
) -> Records:
    config = EngineConfig(block_size=SIZE, max_num_seqs=6, max_num_batched_tokens=32, **more)
    model = LinearStepModel(0.005, 2e-5, 1e-4)
    instance = Instance(config, model, blocks, kv_groups=groups)
    return simulate(Given(requests), [instance], options=EngineOptions(visit_all=visit_all))


LAYOUTS = [
    (WINDOW,),
    (FULL, WINDOW),
    (FULL, group("window", 6), group("window", 6)),
    (FULL, CHUNKED),
    (FULL, STATE),
    (FULL, replace(STATE, checkpoints=True), STATE),
    (FULL, group("window", 16, size=8)),
]


@settings(max_examples=120, deadline=None)
@given(
    requests_that_share(14, (0.0, 0.01, 0.05), SIZE),
    st.sampled_from(LAYOUTS),
    st.sampled_from([80, 100, 400]),
    st.booleans(),
    st.booleans(),
)
def test_counted_decodes_are_the_visited_ones_and_all_blocks_come_back(
    requests: list[RequestSpec],
    groups: tuple[KvGroup, ...],
    blocks: int,
    asynchronous: bool,
    caching: bool,
) -> None:
    options: dict[str, Any] = {"async_scheduling": asynchronous, "enable_prefix_caching": caching}
    counted = run(requests, groups, blocks, visit_all=False, **options)
    visited = run(requests, groups, blocks, visit_all=True, **options)
    assert everything(counted) == everything(visited)
    assert counted.requests.count(Status.FINISHED) + counted.requests.count(Status.REJECTED) == len(
        requests
    )


def test_windows_move_in_turn_when_others_take_what_they_held() -> None:
    # Little is blank: whose blocks the prefills take decides what the last request finds.
    shapes = [(0.0, 33, 21, 0), (0.0, 1, 1, 0), (0.01, 1, 1, 0), (0.02, 1, 1, 0)]
    shapes += [(0.03, 18, 16, 0), (0.04, 17, 2, 3), (0.04, 1, 1, 0), (0.09, 55, 4, 0)]
    shapes += [(0.09, 41, 2, 2), (0.09, 9, 2, 0), (0.09, 29, 1, 3)]
    requests = [
        RequestSpec(number, at, prompt, output, tuple(range(1000, 1000 + shared)), SIZE)
        for number, (at, prompt, output, shared) in enumerate(shapes)
    ]
    options: dict[str, Any] = {"async_scheduling": False, "enable_prefix_caching": True}
    counted, visited = (
        run(requests, LAYOUTS[2], 100, visit_all=visit_all, **options)
        for visit_all in (False, True)
    )
    assert everything(counted) == everything(visited)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LAYOUTS), st.data())
def test_blocks_held_and_free_are_all_blocks(
    groups: tuple[KvGroup, ...], data: st.DataObject
) -> None:
    kv = cache(*groups, total=60, chunk=16)
    running: dict[int, Sequence] = {}
    for number in range(40):
        if running and data.draw(st.booleans()):
            seq = running.pop(data.draw(st.sampled_from(sorted(running))))
            kv.release(seq, returns=data.draw(st.booleans()))
        else:
            length = data.draw(st.integers(1, 12))
            first = 100 * data.draw(st.integers(0, 1))
            seq = sequence(number, length * SIZE + 1, *range(first, first + length))
            found = kv.find(seq)
            seq.computed = len(found) * SIZE
            if kv.admit(seq, found, seq.known, seq.known):
                kv.register(seq, seq.known)
                seq.computed = seq.known
                running[number] = seq
        kv.start_step()
        held = {b for tables in kv._tables.values() for t in tables for b in t.blocks if b}
        assert len(held) + kv.free == kv.total
        assert len(kv._held._pool) == kv.free
        assert held.isdisjoint(kv._held._pool.cached)
        counts = [b for tables in kv._tables.values() for t in tables for b in t.blocks if b]
        assert sorted(kv._held._holders) == sorted(held)
        assert all(kv._held._holders[b] == counts.count(b) for b in held)
    for seq in running.values():
        kv.release(seq)
    assert kv.free == kv.total
