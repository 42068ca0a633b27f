"""Ranks in lock step, on devices whose times can be checked by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import Given, request

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.runtime.cluster import Cluster, simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.failures import Failures, Outage
from servesim.runtime.instance import Instance
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.parallel.waves import Rank, wave_shapes
from servesim.runtime.plan import Plan
from servesim.runtime.records import Records, RequestRecords, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.routers.round_robin import RoundRobin
from servesim.runtime.system import System


@dataclass(frozen=True)
class Seen:
    """A second for each own token, a tenth for each of the group, a thousandth a padded one."""

    needs_contexts = counts_sharing = False

    def seconds(self, batch: BatchShape) -> float:
        return batch.tokens + 0.1 * batch.group_tokens + 0.001 * batch.padded_tokens

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        return self.seconds(BatchShape((), decodes, context, context_max))


def ranks(count: int, stages: int = 1, blocks: int = 10_000, **config: object) -> list[Instance]:
    options = EngineConfig(**{"max_num_seqs": 8, "max_num_batched_tokens": 64, **config})  # type: ignore[arg-type]
    model = StagedStepModel((Seen(),) * stages) if stages > 1 else Seen()
    return [Instance(options, model, blocks, f"dp{i}", wave="all") for i in range(count)]


def run(requests: list[RequestSpec], instances: list[Instance]) -> Records:
    return simulate(Given(requests), instances)


@pytest.mark.parametrize("eager", [False, True])
def test_a_wave_takes_as_long_as_its_slowest_rank(eager: bool) -> None:
    # Round robin: prompts of 10 and 4 tokens in one wave; one token of output each.
    records = run([request(0, 0, 10, 1), request(1, 0, 4, 1)], ranks(2, enforce_eager=eager))
    group = 14 if eager else 20  # padded to the largest with CUDA graphs
    expected = 10 + 0.1 * group + 0.001 * 10
    assert list(records.requests.finished_s) == pytest.approx([expected, expected])


def test_a_rank_without_requests_runs_dummy_steps() -> None:
    records = run([request(0, 0, 10, 3)], ranks(3))
    step = 10 + 0.1 * 30 + 0.01, 1 + 0.1 * 3 + 0.001
    assert records.requests.finished_s[0] == pytest.approx(step[0] + 2 * step[1])
    busy, idle, _ = records.instances
    assert list(idle.steps.end_s) == list(busy.steps.end_s)
    assert sum(idle.steps.decodes) + sum(idle.steps.prefill_tokens) == 0


def test_who_comes_during_a_wave_waits_for_the_next() -> None:
    records = run([request(0, 0, 10, 2), request(1, 0.5, 4, 1)], ranks(2))
    first = 10 + 0.1 * 20 + 0.01
    assert records.requests.queued_s[1] == pytest.approx(first)
    second = 4 + 0.1 * 8 + 0.004  # a decode padded to the other rank's prompt
    assert list(records.requests.finished_s) == pytest.approx([first + second] * 2)


def test_shapes_know_of_each_other() -> None:
    plans = [Plan(decodes=3, context=30, context_max=10), None, Plan(decodes=1, context=1)]
    padded, eager = (wave_shapes(plans, padded=p) for p in (True, False))
    assert [(s.padded_tokens, s.group_tokens) for s in padded] == [(3, 9)] * 3
    assert [(s.padded_tokens, s.group_tokens) for s in eager] == [(3, 5), (1, 5), (1, 5)]
    assert [s.tokens for s in padded] == [3, 0, 1]


def test_a_rank_does_not_fail_alone() -> None:
    with pytest.raises(UnsupportedError, match="lock step"):
        Rank(ranks(1)[0], RequestRecords()).fail(1.0)
    failing = System(failures=Failures(outages=(Outage("dp0", 1.0),)))
    with pytest.raises(UnsupportedError, match="lock step"):
        Cluster(Given([request(0, 0, 5, 2)]), ranks(2), RoundRobin(), system=failing)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 90), st.integers(1, 12)),
        min_size=1, max_size=14,
    ),
    st.integers(1, 4), st.integers(1, 3), st.integers(9, 30), st.booleans(),
)  # fmt: skip
def test_all_requests_finish_and_ranks_stay_together(
    lengths: list[tuple[int, int, int]], count: int, stages: int, blocks: int, eager: bool
) -> None:
    requests = [
        request(i, float(at), prompt, output)
        for i, (at, prompt, output) in enumerate(sorted(lengths, key=lambda x: x[0]))
    ]
    records = run(requests, ranks(count, stages, blocks, enforce_eager=eager))
    assert records.requests.count(Status.FINISHED) == len(requests)
    ends = [list(one.steps.end_s) for one in records.instances]
    assert all(other == ends[0] for other in ends)


def test_rules_that_lanes_do_not_follow_are_refused() -> None:
    own = ranks(
        2,
        scheduling_policy="transformers-fifo",
        enable_prefix_caching=False,
        async_scheduling=False,
    )
    with pytest.raises(UnsupportedError, match=r"transformers-fifo is modelled .* lock step"):
        run([request(0, 0, 10, 1)], own)
