"""What a step knows of the KV blocks that its decodes share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_runs import request, run
from test_step_model import GPU, graph

from servesim.graph.batch import BatchShape
from servesim.graph.kv_layout import KvGroup
from servesim.graph.opgraph import CacheGroup
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.placement import Placement
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.counting import CountingCache
from servesim.runtime.kv.grouped import GroupedCache
from servesim.runtime.kv.prefix import PrefixCache
from servesim.runtime.kv.sharing import SharedBlocks
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.request import RequestSpec
from servesim.runtime.scheduled_step import sub_batches
from servesim.runtime.sequence import Sequence
from servesim.runtime.speculative_step import SpeculativeStepModel
from servesim.runtime.step import LinearStepModel
from servesim.runtime.step_model import CompiledStepModel

SIZE = 4
FULL = KvGroup(CacheGroup("full", (0,), 1.0, None, 0.0), SIZE, 1)
WINDOW = KvGroup(CacheGroup("window", (1,), 1.0, 8, 0.0), SIZE, 1)
#: A second a step, and a hundredth less for each token read again.
MODEL = LinearStepModel(1.0, repeated_saves_s=0.01)


def asking(number: int, at: float, prompt: int, *ids: int, output: int = 4) -> RequestSpec:
    return request(number, at, prompt, output, prefix_block_ids=ids, prefix_block_size=SIZE)


def lengths(requests: list[RequestSpec], **options: object) -> list[float]:
    records = run(requests, model=MODEL, block_size=SIZE, **options)  # type: ignore[arg-type]
    steps = records.instances[0].steps
    return [round(float(s), 9) for s in steps.column("end_s") - steps.column("start_s")]


def test_steps_whose_decodes_share_blocks_are_shorter_by_what_they_read_again() -> None:
    """The second and third find two blocks of the first, the third one more of the second."""
    requests = [
        asking(0, 0.0, 9, 1, 2, output=6),
        asking(1, 0.1, 14, 1, 2, 3, output=5),
        asking(2, 0.2, 14, 1, 2, 3, output=3),
    ]
    # Step 0: the first's prompt. 1: it decodes beside the other two prompts. 2 and 3: all decode;
    # 8 tokens are read three times and 4 twice: 20 again. 4 and 5: the third is done, 8 again.
    assert lengths(requests) == [1.0, 1.0, 0.8, 0.8, 0.92, 0.92]
    assert lengths(requests, enable_prefix_caching=False) == [1.0] * 6


def test_a_prompt_still_computed_shares_with_nobody_yet() -> None:
    long = asking(1, 0.1, 80, 1, 2, output=2)
    # Its 72 new tokens take two steps beside the first's decode; then one step of both.
    assert lengths([asking(0, 0.0, 9, 1, 2, output=5), long])[1:4] == [1.0, 1.0, 0.92]


def sequence(number: int, tokens: int, *ids: int) -> Sequence:
    return Sequence(asking(number, 0.0, tokens, *ids), number, SIZE)


def held(cache: KVCache, *sequences: Sequence) -> tuple[int, int]:
    """Shared and repeated tokens once all of them decode."""
    sharing = SharedBlocks(cache)
    for seq in sequences:
        assert cache.admit(seq, cache.find(seq), seq.known, 0)
        cache.register(seq, seq.known)
        sharing.join(seq)
    return sharing.shared_tokens, sharing.repeated_tokens


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (CountingCache(90, SIZE), (0, 0)),
        (PrefixCache(90, SIZE), (12, 20)),
        (GroupedCache(90, [FULL, WINDOW], 100, caching=True), (12, 20)),
        (GroupedCache(90, [FULL, WINDOW], 100, caching=False), (0, 0)),
        (GroupedCache(90, [WINDOW], 100, caching=True), (0, 0)),
    ],
)
def test_caches_know_what_is_shared_where_all_tokens_are_kept(
    cache: KVCache, expected: tuple[int, int]
) -> None:
    first, second = sequence(0, 17, 1, 2, 3, 4), sequence(1, 17, 1, 2, 3, 9)
    assert held(cache, first, second, sequence(2, 10, 1, 2)) == expected


class _Listed(PrefixCache):
    """Sequences hold the blocks that their requests name."""

    def shareable(self, seq: Sequence) -> list[int]:
        return list(seq.shared)


@given(st.lists(st.lists(st.integers(0, 9), max_size=6, unique=True), max_size=8), st.data())
def test_what_is_shared_is_the_sum_less_what_is_distinct(
    blocks: list[list[int]], data: st.DataObject
) -> None:
    sharing = SharedBlocks(_Listed(90, SIZE))
    running: list[Sequence] = []
    waiting = [sequence(i, 30, *ids) for i, ids in enumerate(blocks)]
    while waiting or running:
        if waiting and (not running or data.draw(st.booleans())):
            running.append(waiting.pop())
            sharing.join(running[-1])
        else:
            sharing.leave(running.pop(data.draw(st.integers(0, len(running) - 1))))
        count = Counter(block for seq in running for block in seq.shared)
        assert sharing.repeated_tokens == (count.total() - len(count)) * SIZE
        assert sharing.shared_tokens == sum(n > 1 for n in count.values()) * SIZE
    assert sharing.repeated_tokens == sharing.shared_tokens == 0


def test_each_part_of_a_batch_reads_what_is_shared_for_itself() -> None:
    batch = BatchShape((), 8, 800, 100, shared_context=60, repeated_context=7 * 60)
    halves = sub_batches(batch, 2)
    assert [part.repeated_context for part in halves] == [3 * 60, 3 * 60]
    alone = sub_batches(replace(batch, decodes=2, repeated_context=60), 2)
    assert [part.repeated_context for part in alone] == [0, 0]


CACHED = replace(GPU, cache=MemoryTier("L2", 1e8, 4e12))
APART = BatchShape((), 8, 8 * 900, 900)
ALIKE = replace(APART, shared_context=800, repeated_context=7 * 800)


def compiled(device: Device, **options: object) -> CompiledStepModel:
    return CompiledStepModel.compile(Placement.tensor_parallel(graph(**options), device))


def test_a_step_model_asks_for_what_is_shared_if_a_cache_makes_it_cheaper() -> None:
    assert not compiled(GPU).counts_sharing
    model = compiled(CACHED)
    assert model.counts_sharing
    assert StagedStepModel((model,)).counts_sharing
    assert SpeculativeStepModel(model, 2).counts_sharing
    assert model.seconds(APART) == pytest.approx(model.decode_seconds(8, 8 * 900, 900))
    # Three layers of 512 bytes a token, at 4 instead of 0.85 TB/s.
    saved = 3 * 7 * 800 * 512 * (1 / 0.85e12 - 1 / 4e12)
    assert model.seconds(APART) - model.seconds(ALIKE) == pytest.approx(saved)


def test_only_layers_that_see_all_tokens_share() -> None:
    """One of three layers sees a window."""
    contexts = np.full(8, 900)
    batches = [replace(batch, contexts=contexts) for batch in (APART, ALIKE)]
    apart, alike = map(compiled(CACHED, window=100).seconds, batches)
    assert apart - alike == pytest.approx(2 * 7 * 800 * 512 * (1 / 0.85e12 - 1 / 4e12))
