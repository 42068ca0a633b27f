"""Recurrent states with prefix caching: where prefills end, and what can be found again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from runtime_runs import request

from servesim.graph.kv_layout import KvGroup, with_checkpoints
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, CacheGroup, OpGraph
from servesim.graph.ops.recurrent import Recurrent
from servesim.runtime.config import EngineConfig
from servesim.runtime.kv import build_cache
from servesim.runtime.kv.alignment import Alignment, alignment
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.counting import CountingCache
from servesim.runtime.kv.retention import Retention
from servesim.runtime.sequence import Sequence

SIZE = 4
FULL = KvGroup(CacheGroup("full", (0,), 1.0), SIZE, 1)
STATE = KvGroup(CacheGroup("state", (1,), 0.0, None, 1.0), 1 << 10, 1)


def sequence(number: int, tokens: int, *ids: int) -> Sequence:
    spec = request(number, 0.0, tokens, 50, prefix_block_ids=ids, prefix_block_size=SIZE)
    return Sequence(spec, number, SIZE)


def cache(*groups: KvGroup, total: int = 100, **options: Any) -> KVCache:
    options = {"async_scheduling": False, "max_num_batched_tokens": 256, **options}
    return build_cache(EngineConfig(block_size=SIZE, **options), total + 1, groups)


def admit(kv: KVCache, seq: Sequence, budget: int = 256) -> tuple[int, int]:
    """Admit ``seq`` for a step; returns the tokens found and those of the step."""
    found = kv.find(seq)
    computed = len(found) * SIZE
    new = kv.cut(seq, computed, min(seq.known - computed, budget))
    assert kv.admit(seq, found, computed + new, seq.known)
    kv.register(seq, computed + new)
    seq.computed = computed + new
    return computed, new


@pytest.mark.parametrize(
    ("start", "new", "most_new", "parting", "granted"),
    [
        (0, 13, 99, 0, 12),  # a prefix of 13 tokens ends at 12 at most: a state is wanted there
        (12, 1, 99, 0, 1),
        (0, 12, 99, 0, 12),
        (0, 6, 99, 0, 4),
        (0, 3, 99, 0, 0),  # the next step has more tokens
        (0, 3, 3, 0, 3),  # no step has
        (3, 3, 3, 0, 1),
        (2, 11, 99, 0, 2),  # started inside a block: to its end first
        (0, 13, 99, 8, 8),  # others have 8 tokens of it, but no state there
        (8, 5, 99, 8, 4),
        (13, 1, 99, 0, 1),  # a decode
    ],
)
def test_a_prefill_ends_where_a_state_can_be_found(
    start: int, new: int, most_new: int, parting: int, granted: int
) -> None:
    at = Alignment(SIZE, most_new, checkpoints=False, every_step=False)
    assert at.new(sequence(0, 13), start, new, parting) == granted


def test_kernels_that_write_checkpoints_need_no_end_of_a_step() -> None:
    seq = sequence(0, 13)
    at = Alignment(SIZE, 99, checkpoints=True, every_step=False)
    assert at.new(seq, 0, 13, 0) == 13
    assert at.new(seq, 8, 5, 0) == 5  # only 4 tokens lie before the checkpoint: none is written
    assert [at.checkpoint(seq, *ends) for ends in ((0, 13), (0, 8), (12, 13))] == [1, 0, 0]
    every = replace(at, every_step=True)
    assert [every.checkpoint(seq, *ends) for ends in ((0, 13), (0, 8), (0, 4))] == [1, 1, 0]


def test_models_without_states_or_without_caching_are_not_aligned() -> None:
    assert alignment([FULL], 99, 0) is None
    assert cache(FULL, STATE, enable_prefix_caching=False).cut(sequence(0, 13), 0, 13) == 13
    assert isinstance(cache(STATE), CountingCache)  # nothing to find by: vLLM does not try


def test_a_state_is_found_again_where_a_step_ended() -> None:
    kv = cache(FULL, STATE)
    first = sequence(0, 13, 1, 2, 3)
    assert admit(kv, first) == (0, 12)
    assert kv.total - kv.free == 3 + 1
    kv.start_step()
    kv.settle(first, 12)
    assert kv.grow(first, 13)
    assert kv.total - kv.free == 4 + 2  # the state before it is read in the step that goes on
    kv.settle(first, 13)
    assert kv.total - kv.free == 4 + 1
    assert admit(kv, sequence(1, 13, 1, 2, 3)) == (12, 1)
    assert kv.total - kv.free == 5 + 3  # 3 and the first state are shared, again, until it goes on


def test_a_state_is_of_no_use_in_the_step_that_computes_it() -> None:
    kv = cache(FULL, STATE)
    admit(kv, sequence(0, 13, 1, 2, 3))
    second = sequence(1, 13, 1, 2, 3)
    found, epoch = kv.find(second), kv.epoch
    assert len(found) == 3
    assert not kv.admit(second, found, 13, 13)
    kv.start_step()
    assert kv.epoch > epoch
    assert kv.admit(second, found, 13, 13)


def test_the_second_to_part_from_a_prefix_leaves_a_state_for_the_third() -> None:
    kv, seen = cache(FULL, STATE), []
    for number in range(3):
        own = tuple(100 * (number + 1) + i for i in range(4))
        seq = sequence(number, 33, 1, 2, 3, 4, *own)
        seen.append(admit(kv, seq))
        kv.start_step()
        kv.release(seq)
    assert seen == [(0, 32), (0, 16), (16, 16)]


def test_a_preempted_sequence_goes_on_from_the_state_of_its_prompt() -> None:
    kv = cache(FULL, STATE)
    seq = sequence(0, 13)
    admit(kv, seq)
    for tokens in range(13, 18):
        kv.start_step()
        kv.settle(seq, tokens - 1)
        assert kv.grow(seq, tokens)
        kv.register(seq, tokens)
    kv.release(seq, returns=True)
    seq.known, seq.computed = 18, 0
    assert len(kv.find(seq)) == 3
    assert kv.cut(seq, 12, 6) == 4  # its own blocks go on to 16: a state is left there


@pytest.mark.parametrize(("interval", "kept"), [(0, [3]), (16, [3, 7]), (None, list(range(8)))])
def test_states_are_kept_where_prefixes_may_end(interval: int | None, kept: list[int]) -> None:
    state = replace(STATE, block_size=SIZE)
    retention = Retention(interval, align=SIZE)
    assert [i for i in range(8) if retention.keeps(state, (19,), i)] == kept


@pytest.mark.parametrize(
    ("asynchronous", "checkpoints", "states"),
    [(False, False, 2), (True, False, 3), (True, True, 5)],
)
def test_a_sequence_holds_the_states_of_the_steps_under_way(
    asynchronous: bool, checkpoints: bool, states: int
) -> None:
    group = replace(STATE, checkpoints=checkpoints)
    kv = cache(FULL, group, async_scheduling=asynchronous)
    assert kv.blocks_of(40) == 10 + states
    assert kv.blocks_of(4) == 1 + 1


@pytest.mark.parametrize(("recurrence", "able"), [("ssd", True), ("gated_delta", False)])
def test_only_mamba_2_writes_checkpoints(recurrence: str, able: bool) -> None:
    scan = Op("scan", Recurrent(recurrence, 1, 1, 1, 1.0, 1.0, 1.0))
    block = Block("layer", (scan,), layers=(1,))
    graph = OpGraph("m", (block,), (), 1, 1, 1.0, 1, 1, 1)
    assert [g.checkpoints for g in with_checkpoints((FULL, STATE), graph)] == [False, able]
