"""Clients that give up, whatever kind of engine they talk to, and where none serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import SLOW, Given, request

from servesim.runtime.cluster import Cluster, simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.failures import Failures, Outage
from servesim.runtime.instance import Instance
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.records import Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.routers.round_robin import RoundRobin
from servesim.runtime.source import OpenSource
from servesim.runtime.system import System

DRAFTS = {"method": "eagle", "num_speculative_tokens": 3, "acceptance_rate": 0.6}
KINDS: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "asynchronous": {"async_scheduling": True},
    "speculative": {"async_scheduling": True, "speculative_config": DRAFTS},
    "pipeline": {},
    "wave": {},
    "transformers": {"scheduling_policy": "transformers-fifo"},
}


def engines(kind: str, blocks: int = 100, *, caching: bool = False) -> list[Instance]:
    """Two of a kind."""
    given_ = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "async_scheduling": False}
    caching &= kind != "transformers"
    config = EngineConfig(**{**given_, "enable_prefix_caching": caching, **KINDS[kind]})
    model = StagedStepModel((SLOW, SLOW)) if kind == "pipeline" else SLOW
    wave = "all" if kind == "wave" else ""
    return [Instance(config, model, blocks, name, wave=wave) for name in ("a", "b")]


@dataclass(frozen=True)
class Heard(Given):
    """A workload of given requests that learns when each was over."""

    over_s: dict[int, float] = field(default_factory=dict)

    def source(self) -> OpenSource:
        class Source(OpenSource):
            def finished(source, spec: RequestSpec, now: float) -> None:  # noqa: N805
                self.over_s[spec.id] = now

        return Source(self.requests)


def failing(*outages: Outage) -> System:
    return System(failures=Failures(outages))


lengths = st.lists(
    st.tuples(
        st.integers(0, 20), st.integers(1, 60), st.integers(1, 20), st.none() | st.floats(0, 40)
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(lengths, st.integers(12, 30), st.booleans(), st.booleans())
@pytest.mark.parametrize("kind", KINDS)
def test_all_are_accounted_for_and_no_block_is_lost(
    kind: str, given_: list[tuple[int, int, int, float | None]],
    blocks: int, caching: bool, fails: bool,
) -> None:  # fmt: skip
    requests = [
        request(i, at, prompt, output, cancel_after_s=patience)
        for i, (at, prompt, output, patience) in enumerate(sorted(given_, key=lambda one: one[0]))
    ]
    outages = (Outage("a", 5.0, 6.0), Outage("b", 7.0, 9.0))
    system = failing(*outages) if fails and kind != "wave" else None
    instances = engines(kind, blocks, caching=caching)
    cluster = Cluster(Given(requests), instances, RoundRobin(), system=system)
    rows = cluster.run().requests
    for row, spec in enumerate(requests):
        if spec.cancel_after_s is None:
            assert rows.status[row] == Status.FINISHED
        elif rows.status[row] == Status.FINISHED:
            assert rows.finished_s[row] < spec.arrival_s + spec.cancel_after_s
        else:
            assert rows.status[row] == Status.CANCELLED
    for member in cluster.members:
        cache = member.engine.scheduler.cache
        assert member.engine.empty
        assert cache.free == cache.total


def over(requests: Sequence[RequestSpec], system: System) -> tuple[dict[int, float], list[int]]:
    """When each request was over, and what had become of it, on engines a and b."""
    workload = Heard(requests)
    got = simulate(workload, engines("synchronous"), system=system).requests
    return workload.over_s, list(got.status)


def test_a_client_does_not_wait_longer_where_none_serves() -> None:
    asked = [request(0, 2, 4, 1, cancel_after_s=3), request(1, 2, 4, 1, cancel_after_s=30)]
    down = failing(Outage("a", 1.0, 10.0), Outage("b", 1.0, 10.0))
    at_s, status = over(asked, down)
    assert at_s == {0: 5.0, 1: pytest.approx(11 + 1.4)}
    assert status == [Status.CANCELLED, Status.FINISHED]


def test_who_still_waits_when_nobody_will_serve_is_rejected() -> None:
    asked = [
        request(0, 2, 4, 1, cancel_after_s=3), request(1, 2, 4, 1, cancel_after_s=30),
        request(2, 9, 4, 1),
    ]  # fmt: skip
    at_s, status = over(asked, failing(Outage("a", 1.0), Outage("b", 1.0)))
    assert at_s == {0: 5.0, 1: 9.0, 2: 9.0}
    assert status == [Status.CANCELLED, Status.REJECTED, Status.REJECTED]


def test_whose_client_has_gone_is_not_sent_anew_after_a_failure() -> None:
    asked = [request(0, 0, 20, 5, cancel_after_s=3.5)]  # a step of 3 s, and then of 1.1 s
    system = failing(Outage("a", 4.0))
    got = simulate(Given(asked), engines("synchronous"), system=system).requests
    assert got.status[0] == Status.CANCELLED
    assert got.retries[0] == 0
    assert got.first_token_s[0] == 3.0


def test_without_any_patience_nothing_is_begun() -> None:
    got = simulate(Given([request(0, 1, 4, 5, cancel_after_s=0)]), engines("synchronous"))
    assert got.requests.status[0] == Status.CANCELLED
    assert [len(one.steps) for one in got.instances] == [0, 0]
