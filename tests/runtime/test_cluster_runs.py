"""Several engines, routers, rejection and closed loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from runtime_runs import SLOW, STEP_COLUMNS, Given, everything, request, run

from servesim.errors import InputError, ServesimError, UnknownNameError
from servesim.graph.batch import BatchShape
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance
from servesim.runtime.records import Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot
from servesim.runtime.step import LinearStepModel
from servesim.runtime.workloads.closed_loop import ClosedLoop, ClosedLoopSource

CONFIG = EngineConfig(max_num_seqs=8, max_num_batched_tokens=64, async_scheduling=False)


def test_what_can_never_run_is_rejected_and_counted() -> None:
    requests = [
        request(0, 0.0, 50, 51),  # longer than the model
        request(1, 0.0, 40, 9),  # 48 computed tokens: exactly the three blocks
        request(2, 0.0, 40, 10),
        request(3, 1.0, 5, 1),
    ]
    records = run(requests, blocks=4, max_model_len=100).requests
    assert list(records.status) == [
        Status.REJECTED,
        Status.FINISHED,
        Status.REJECTED,
        Status.FINISHED,
    ]
    assert records.reasons == {
        0: "prompt and output are 101 tokens; max_model_len is 100",
        2: "50 tokens need 4 KV blocks; there are 3",
    }
    assert math.isnan(records.finished_s[0])


def test_without_chunked_prefill_nothing_longer_than_a_step_can_run() -> None:
    records = run([request(0, 0.0, 60, 10)], enable_chunked_prefill=False).requests
    assert records.reasons == {
        0: "69 tokens may need one prefill; max_num_batched_tokens is 64",
    }


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("ahead", [False, True])
def test_equals_do_not_preempt_each_other_for_ever(policy: str, ahead: bool) -> None:
    # Each needs 5 of 5 blocks, both are admitted with their first chunk and grow side by side.
    records = run(
        [request(0, 0.0, 49, 22), request(1, 0.0, 49, 22)],
        blocks=6,
        long_prefill_token_threshold=3,
        scheduler_reserve_full_isl=False,
        scheduling_policy=policy,
        async_scheduling=ahead,
    )
    assert records.requests.count(Status.FINISHED) == 2
    assert sum(records.requests.preemptions) > 0


def test_round_robin_takes_turns_and_instances_run_side_by_side() -> None:
    requests = [request(number, 0.0, 10, 1) for number in range(4)]
    records = simulate(Given(requests), [Instance(CONFIG, SLOW, 100)] * 2)
    assert list(records.requests.instance) == [0, 1, 0, 1]
    assert list(records.requests.finished_s) == pytest.approx([3.0] * 4)


def test_least_loaded_goes_where_the_fewest_are() -> None:
    requests = [
        request(0, 0.0, 10, 50),
        request(1, 0.1, 10, 1),
        request(2, 10.0, 10, 1),
        request(3, 10.1, 10, 50),
        request(4, 10.2, 10, 1),
    ]
    router = ROUTERS.build("least_loaded")
    records = simulate(Given(requests), [Instance(CONFIG, SLOW, 100)] * 2, router)
    assert list(records.requests.instance) == [0, 1, 1, 0, 1]


@pytest.mark.parametrize("name", ROUTERS.names())
def test_every_router_chooses_an_instance(name: str) -> None:
    instances = [Snapshot(str(i), i, 3 - i, 10 + i, 20) for i in range(4)]
    router, again = ROUTERS.build(name), ROUTERS.build(name)
    requests = [request(i, float(i), 10, 1) for i in range(9)]
    chosen = [router.choose(spec, instances) for spec in requests]
    assert set(chosen) <= set(range(4))
    assert chosen == [again.choose(spec, instances) for spec in requests]
    assert router.choose(requests[0], instances[:1]) == 0


def test_an_unknown_router_is_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'round_robin'"):
        ROUTERS.build("round_robbin")


def test_a_closed_loop_keeps_its_concurrency() -> None:
    workload = ClosedLoop(
        num_requests=5, prompt_tokens=10, output_tokens=1, concurrency=2, think_time_s=0.5
    )
    requests = simulate(workload, [Instance(CONFIG, SLOW, 100)]).requests
    # Two at once take 3 s, then half a second later two more, then the last one alone: 2 s.
    assert list(requests.arrival_s) == pytest.approx([0, 0, 3.5, 3.5, 7.0])
    assert list(requests.finished_s) == pytest.approx([3, 3, 6.5, 6.5, 9.0])


def test_an_engine_does_not_run_ahead_of_what_others_cause() -> None:
    requests = {0: (10, 50), 1: (10, 1), 2: (10, 1)}

    class Source(ClosedLoopSource):
        def take(self) -> RequestSpec:
            spec = super().take()
            prompt, output = requests[spec.id]
            return replace(spec, prompt_tokens=prompt, output_tokens=output)

    class Loop(ClosedLoop):
        def source(self) -> ClosedLoopSource:
            return Source(self.bodies(), 2, 0.0)

    records = simulate(Loop(num_requests=3), [Instance(CONFIG, SLOW, 100)] * 2).requests
    # The second engine answers at 2 s, and the next request goes to the first, amid its decodes.
    assert list(records.instance) == [0, 1, 0]
    assert list(records.arrival_s) == [0, 0, 2.0]
    assert records.queued_s[2] - records.arrival_s[2] <= 1.1


def test_a_closed_loop_goes_on_after_a_rejection() -> None:
    workload = ClosedLoop(num_requests=3, prompt_tokens=100, output_tokens=100, concurrency=1)
    requests = simulate(workload, [Instance(CONFIG, SLOW, 5)]).requests
    assert list(requests.status) == [Status.REJECTED] * 3


def test_progress_counts_up_to_all() -> None:
    seen: list[tuple[int, int | None, float]] = []
    requests = [request(number, float(number), 10, 2) for number in range(5)]
    simulate(
        Given(requests), [Instance(CONFIG, SLOW, 100)], progress=lambda *args: seen.append(args)
    )
    assert seen[-1][:2] == (5, 5)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_two_engines_apart_are_as_one_each() -> None:
    both = [request(number, 0.05 * number, 30, 20) for number in range(40)]
    together = simulate(Given(both), [Instance(CONFIG, SLOW, 30)] * 2)
    for instance in range(2):
        alone = simulate(Given(both[instance::2]), [Instance(CONFIG, SLOW, 30)])
        mine = together.requests.column("instance") == instance
        for name in ("queued_s", "first_token_s", "finished_s", "preemptions"):
            ours = together.requests.column(name)[mine]
            assert (ours == alone.requests.column(name)).all()
        size = len(STEP_COLUMNS) + 2  # and the gaps
        ours, theirs = everything(together)[-2 * size :], everything(alone)[-size:]
        assert ours[size * instance :][:size] == theirs


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(InputError, match="no requests"):
        run([])
    with pytest.raises(InputError, match="at least one instance"):
        simulate(Given([request(0, 0.0, 1, 1)]), [])
    with pytest.raises(InputError, match="at least 2, not 1"):
        Instance(CONFIG, SLOW, 1)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_a_step_model_must_give_a_time(seconds: float) -> None:
    with pytest.raises(ServesimError, match="step model gave"):
        run([request(0, 0.0, 1, 1)], model=LinearStepModel(base_s=seconds))


def test_contexts_are_given_when_the_model_asks() -> None:
    seen: list[list[int]] = []

    class Windowed(LinearStepModel):
        @property
        def needs_contexts(self) -> bool:
            return True

        def seconds(self, batch: BatchShape) -> float:
            assert batch.contexts is not None
            assert batch.contexts.sum() == batch.decode_context
            assert batch.contexts.max(initial=0) == batch.decode_context_max
            seen.append(batch.contexts.tolist())
            return 1.0

    run([request(0, 0.0, 10, 4), request(1, 0.0, 3, 3)], model=Windowed())
    assert seen == [[], [3, 10], [4, 11], [12]]
