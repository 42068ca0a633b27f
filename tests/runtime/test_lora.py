"""LoRA adapters: slots, swaps and who is passed over, on a device whose times are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import Given, everything, request, run

from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance
from servesim.runtime.lora import AdapterSlots
from servesim.runtime.records import Records, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.sequence import Sequence
from servesim.runtime.step import LinearStepModel
from servesim.runtime.workloads.poisson import Poisson


def served(requests: list[RequestSpec], load_s: float = 0.5, **options: object) -> Records:
    given_ = {
        "max_num_seqs": 8, "max_num_batched_tokens": 64, "async_scheduling": False,
        "enable_lora": True, "max_loras": 2, **options,
    }  # fmt: skip
    config = EngineConfig(**given_)  # type: ignore[arg-type]
    engine = Instance(config, LinearStepModel(base_s=1.0), 1000, adapter_load_s=load_s)
    return simulate(Given(requests), [engine])


def test_an_adapter_is_loaded_once_while_it_is_there() -> None:
    # Two requests for one adapter, one after the other: only the first waits for it.
    records = served([request(0, 0, 5, 2, adapter=7), request(1, 10, 5, 2, adapter=7)])
    assert list(records.requests.finished_s) == pytest.approx([2.5, 12.0])


def test_who_needs_one_adapter_too_many_is_passed_over() -> None:
    requests = [request(i, 0, 5, 3, adapter=adapter) for i, adapter in enumerate([1, 2, 3, 1])]
    records = served(requests)
    # 1, 2 and again 1 run at once: two loads, three steps. Then 3, loaded alone.
    assert list(records.requests.finished_s) == pytest.approx([4.0, 4.0, 7.5, 4.0])


def test_the_longest_idle_makes_room() -> None:
    slots = AdapterSlots(2)
    seqs = [Sequence(request(i, 0, 1, 1, adapter=i), i, 16) for i in range(3)]
    assert slots.enter(seqs[0])
    assert slots.enter(seqs[1])
    assert not slots.admits(seqs[2])
    slots.leave(seqs[0])
    slots.leave(seqs[1])
    slots.start_step([])
    assert slots.admits(seqs[2])
    assert slots.enter(seqs[2])  # in the place of 0
    assert not slots.enter(seqs[1])
    slots.leave(seqs[1])
    assert slots.enter(seqs[0])


def test_only_the_adapters_of_a_step_are_in_the_way() -> None:
    # As vLLM has it: a sequence whose last token is under way runs, but is in no step any more.
    slots = AdapterSlots(1)
    first, second = (Sequence(request(i, 0, 1, 1, adapter=i), i, 16) for i in range(2))
    assert slots.enter(first)
    slots.start_step([first])
    assert not slots.admits(second)
    slots.start_step([])
    assert slots.admits(second)
    assert slots.enter(second)
    slots.leave(first)  # its place was taken
    third = Sequence(request(2, 0, 1, 1, adapter=0), 2, 16)
    slots.start_step([])
    assert slots.enter(third)


def test_adapters_share_no_prefix() -> None:
    def hits(first: int | None, second: int | None) -> int:
        common = {"prefix_block_ids": (0, 1, 2)}
        requests = [
            request(0, 0, 50, 2, adapter=first, **common),
            request(1, 10, 50, 2, adapter=second, **common),
        ]
        return served(requests).requests.cached_tokens[1]

    assert hits(None, None) == hits(3, 3) == 48
    assert hits(3, 4) == hits(None, 3) == hits(0, None) == 0


def test_an_engine_without_adapters_refuses() -> None:
    records = run([request(0, 0, 5, 2, adapter=1), request(1, 0, 5, 2)])
    assert records.requests.count(Status.REJECTED) == 1
    assert records.requests.reasons[0] == "it is for LoRA adapter 1; enable_lora is off"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 60), st.integers(1, 20), st.integers(-1, 5)),
        min_size=1, max_size=14,
    ),
    st.integers(1, 3), st.integers(6, 30), st.sampled_from(["fcfs", "priority"]), st.booleans(),
)  # fmt: skip
def test_all_finish_and_counting_decides_as_visiting(
    drawn: list[tuple[int, int, int, int]], slots: int, blocks: int, policy: str, ahead: bool
) -> None:
    requests = [
        request(i, at / 4, prompt, output, adapter=None if adapter < 0 else adapter)
        for i, (at, prompt, output, adapter) in enumerate(sorted(drawn, key=lambda x: x[0]))
    ]
    options = {
        "blocks": blocks, "enable_lora": True, "max_loras": slots, "scheduling_policy": policy,
        "async_scheduling": ahead,
    }  # fmt: skip
    records = run(requests, **options)  # type: ignore[arg-type]
    assert records.requests.count(Status.FINISHED) == len(requests)
    visited = run(requests, visit_all=True, **options)  # type: ignore[arg-type]
    assert everything(records) == everything(visited)


def test_popular_adapters_are_asked_for_more() -> None:
    even = Poisson(num_requests=4000, adapters=4)
    skewed = replace(even, adapter_skew=1.0)

    def shares(workload: Poisson) -> list[float]:
        bodies = workload.bodies()
        asked = [bodies.request(i, 0.0).adapter for i in range(len(bodies))]
        return [asked.count(adapter) / len(asked) for adapter in range(4)]

    assert shares(even) == pytest.approx([0.25] * 4, abs=0.03)
    total = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert shares(skewed) == pytest.approx([1 / n / total for n in (1, 2, 3, 4)], abs=0.03)
