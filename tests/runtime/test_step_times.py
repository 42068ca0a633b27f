"""Times on the null device, worked out by hand: a step takes 1 s and 0.1 s per token."""

from __future__ import annotations

import pytest
from runtime_runs import Given, request, run

from servesim.graph.batch import BatchShape
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance
from servesim.runtime.step import LinearStepModel

TWO = [request(0, 0.0, 10, 3), request(1, 0.5, 5, 2)]


def test_the_linear_device_adds_up() -> None:
    model = LinearStepModel(1.0, 0.1, 0.01, 0.001)
    batch = BatchShape(((8, 2),), decodes=2, decode_context=30, decode_context_max=20)
    assert model.seconds(batch) == pytest.approx(1 + 0.1 * 10 + 0.01 * 3 + 0.001 * 30)
    decodes = BatchShape((), 2, 30, 20)
    assert model.decode_seconds(2, 30, 20) == model.seconds(decodes)


def test_two_requests_share_steps_of_eight_tokens() -> None:
    records = run(TWO, max_num_batched_tokens=8)
    # 0-1.8: 8 of the first prompt. 1.8-3.5: its other 2 and all 5 of the second.
    # 3.5-4.7: two decodes, the second request is done. 4.7-5.8: one decode.
    steps = records.instances[0].steps
    assert list(steps.end_s) == pytest.approx([1.8, 3.5, 4.7, 5.8])
    assert list(steps.prefill_tokens) == [8, 7, 0, 0]
    assert list(steps.prefills) == [1, 2, 0, 0]
    assert list(steps.decodes) == [0, 0, 2, 1]
    requests = records.requests
    assert list(requests.queued_s) == pytest.approx([0, 1.8])
    assert list(requests.scheduled_s) == pytest.approx([0, 1.8])
    assert list(requests.first_token_s) == pytest.approx([3.5, 3.5])
    assert list(requests.finished_s) == pytest.approx([5.8, 4.7])


def test_asynchronous_scheduling_decides_a_step_ahead() -> None:
    records = run(TWO, max_num_batched_tokens=8, async_scheduling=True)
    # The step at 1.8 was decided at 0, without the second request, which joins the one at 3.0.
    steps = records.instances[0].steps
    assert list(steps.end_s) == pytest.approx([1.8, 3.0, 4.6, 5.8])
    assert list(steps.prefill_tokens) == [8, 2, 5, 0]
    assert list(steps.decodes) == [0, 0, 1, 2]
    requests = records.requests
    assert list(requests.queued_s) == pytest.approx([0, 1.8])
    assert list(requests.scheduled_s) == pytest.approx([0, 1.8])
    assert list(requests.first_token_s) == pytest.approx([3.0, 4.6])
    assert list(requests.finished_s) == pytest.approx([5.8, 5.8])


def test_asynchronous_scheduling_frees_a_slot_one_step_later() -> None:
    three = [request(0, 0.0, 1, 2), request(1, 0.0, 1, 5), request(2, 0.0, 1, 1)]
    sync = run(three, max_num_seqs=2).requests
    ahead = run(three, max_num_seqs=2, async_scheduling=True).requests
    # The first request is done at 2.4. The step that starts then has room for the third one only
    # if it is decided then; decided ahead, it has one decode, and the third one runs 3.5-4.7.
    assert sync.finished_s[0] == ahead.finished_s[0] == pytest.approx(2.4)
    assert sync.finished_s[2] == pytest.approx(3.6)
    assert ahead.finished_s[2] == pytest.approx(4.7)


@pytest.mark.parametrize("ahead", [False, True])
def test_an_idle_engine_starts_on_arrival(ahead: bool) -> None:
    late = [request(0, 7.0, 10, 1), request(1, 20.0, 10, 1)]
    records = run(late, async_scheduling=ahead)
    assert list(records.requests.finished_s) == pytest.approx([9.0, 22.0])
    assert list(records.instances[0].steps.start_s) == pytest.approx([7.0, 20.0])


def test_a_long_prompt_is_capped_only_in_company() -> None:
    alone = run([request(0, 0.0, 40, 1)], long_prefill_token_threshold=10)
    assert list(alone.instances[0].steps.prefill_tokens) == [40]
    two = run([request(0, 0.0, 40, 1), request(1, 0.0, 25, 1)], long_prefill_token_threshold=10)
    assert list(two.instances[0].steps.prefill_tokens) == [20, 20, 15, 10]


def test_without_chunked_prefill_a_prompt_waits_for_a_step_of_its_own() -> None:
    two = [request(0, 0.0, 40, 2), request(1, 0.0, 40, 2)]
    records = run(two, enable_chunked_prefill=False, max_model_len=60)
    assert list(records.instances[0].steps.prefill_tokens) == [40, 40, 0]
    assert list(records.instances[0].steps.decodes) == [0, 1, 1]


def test_an_arrival_as_a_step_ends_joins_the_next_one() -> None:
    records = run([request(0, 0.0, 10, 3), request(1, 2.0, 10, 1)])
    assert records.instances[0].steps.end_s[0] == 2.0  # 1 + 0.1 * 10
    assert records.requests.queued_s[1] == 2.0
    assert list(records.instances[0].steps.prefill_tokens) == [10, 10, 0]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_block_filled_by_the_last_decode_is_found_by_the_next_turn(ahead: bool) -> None:
    turns = [
        request(0, 0.0, 5, 4, prefix_block_ids=(1, 2), prefix_block_size=4),
        request(1, 100.0, 12, 1, prefix_block_ids=(1, 2, 3), prefix_block_size=4),
    ]
    records = run(turns, block_size=4, async_scheduling=ahead)
    assert list(records.requests.cached_tokens) == [0, 8]


def test_preemption_by_hand() -> None:
    # 4 usable blocks of 4 tokens; both fill two blocks with 8 tokens. At the third token the first
    # takes the second's, which starts again when the first is done.
    two = [request(0, 0.0, 7, 4), request(1, 0.0, 7, 4)]
    records = run(two, blocks=5, block_size=4, enable_prefix_caching=False)
    steps, requests = records.instances[0].steps, records.requests
    # Prefill 14, decode 2, then only the first, twice; then the second's 9 known tokens at once
    # and its last decode.
    assert list(steps.prefill_tokens) == [14, 0, 0, 0, 9, 0]
    assert list(steps.decodes) == [0, 2, 1, 1, 0, 1]
    assert list(steps.kv_blocks) == [4, 4, 3, 3, 3, 3]
    assert list(requests.preemptions) == [0, 1]
    assert list(requests.finished_s) == pytest.approx([2.4 + 1.2 + 1.1 + 1.1, 5.8 + 1.9 + 1.1])
    # Tokens of the second: at 2.4, 3.6, 7.7 and 8.8; of the first: at 2.4, 3.6, 4.7 and 5.8.
    gaps = steps.gaps()
    assert gaps.total == 6
    assert gaps.quantile(1.0) == pytest.approx(4.1)
    assert gaps.mean() == pytest.approx((1.2 * 2 + 1.1 * 3 + 4.1) / 6)


def test_the_host_shows_only_where_nothing_hides_it() -> None:
    def last_s(ahead: bool) -> float:
        config = EngineConfig(max_num_seqs=8, max_num_batched_tokens=64, async_scheduling=ahead)
        engine = Instance(config, LinearStepModel(base_s=1.0), 100, host_s=0.25)
        return simulate(Given([request(0, 0.0, 10, 4)]), [engine]).requests.finished_s[0]

    assert last_s(ahead=False) == pytest.approx(4 * 1.25)
    assert last_s(ahead=True) == pytest.approx(4 * 1.0)


def test_the_host_takes_its_time_for_each_sequence_and_second_of_operators() -> None:
    config = EngineConfig(max_num_seqs=8, max_num_batched_tokens=64, async_scheduling=False)
    model = LinearStepModel(base_s=1.0)
    host = {"host_s": 0.25, "host_per_sequence_s": 0.125, "host_share": 0.5}
    engine = Instance(config, model, 100, **host)
    records = simulate(Given([request(0, 0.0, 10, 4), request(1, 0.0, 10, 2)]), [engine])
    assert list(records.requests.finished_s) == [2 * 2.0 + 2 * 1.875, 2 * 2.0]


def test_the_hosts_share_is_of_operators_not_of_adapters_that_come_before() -> None:
    config = EngineConfig(async_scheduling=False, enable_lora=True)
    engine = Instance(config, LinearStepModel(1.0), 100, adapter_load_s=4.0, host_share=0.5)
    records = simulate(Given([request(0, 0.0, 10, 2, adapter=1)]), [engine])
    assert list(records.requests.finished_s) == [4.0 + 1.5 + 1.5]
