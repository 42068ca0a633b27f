"""Instances that fail, recover, start and drain: nothing is lost, nothing stands still."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import SLOW, Given, everything, request

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.link import Link
from servesim.hardware.topologies import TOPOLOGIES, build_topology
from servesim.runtime.autoscaling import Autoscaling
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.failures import Failures, Outage
from servesim.runtime.handover import HandoverOptions
from servesim.runtime.instance import Instance
from servesim.runtime.records import Records, State, Status
from servesim.runtime.roles import Role
from servesim.runtime.routers import ROUTERS
from servesim.runtime.system import System

CONFIG = EngineConfig(max_num_seqs=8, max_num_batched_tokens=64, async_scheduling=False)


def two(**options: Any) -> list[Instance]:
    return [Instance(CONFIG, SLOW, 100, name, **options) for name in ("a", "b")]


def test_a_request_starts_again_elsewhere() -> None:
    system = System(failures=Failures((Outage("a", 4.0),)))
    got = simulate(Given([request(0, 0.0, 20, 5)]), two(), system=system)
    # Step 1 gives the first token at 3 s; all is lost at 4 s, and begins again on b.
    assert got.requests.first_token_s[0] == pytest.approx(7.0)
    assert got.requests.finished_s[0] == pytest.approx(7.0 + 4 * 1.1)
    assert (got.requests.instance[0], got.requests.retries[0]) == (1, 1)
    assert [(c.time_s, c.instance, c.state) for c in got.changes] == [(4.0, 0, State.FAILED)]
    # The step under way was cut short.
    assert got.instances[0].steps.end_s[-1] == 4.0


def test_requests_wait_for_the_only_instance_to_recover() -> None:
    system = System(failures=Failures((Outage("engine", 1.0, 10.0),)))
    requests = [request(0, 0.0, 20, 1), request(1, 2.0, 20, 1)]
    got = simulate(Given(requests), [Instance(CONFIG, SLOW, 100)], system=system).requests
    assert list(got.finished_s) == pytest.approx([16.0, 16.0])
    assert list(got.retries) == [1, 0]


def test_with_nothing_left_requests_are_rejected() -> None:
    system = System(failures=Failures((Outage("engine", 1.0),)))
    requests = [request(0, 0.0, 20, 1), request(1, 2.0, 20, 1)]
    got = simulate(Given(requests), [Instance(CONFIG, SLOW, 100)], system=system).requests
    assert list(got.status) == [Status.REJECTED] * 2
    assert got.reasons[1] == "no instance is left that could run it"


def test_a_failed_cache_is_empty() -> None:
    system = System(failures=Failures((Outage("engine", 20.0, 1.0),)))
    shared = {"prefix_block_ids": (0, 1)}
    requests = [request(i, 10.0 * i, 40, 1, **shared) for i in range(4)]
    got = simulate(Given(requests), [Instance(CONFIG, SLOW, 100)], system=system).requests
    assert list(got.cached_tokens) == [0, 32, 0, 32]


@pytest.mark.parametrize("failing", ["p", "d"])
def test_kv_on_its_way_is_lost_with_either_end(failing: str) -> None:
    names = ["p", "p2", "d", "d2"]
    instances = [
        Instance(
            CONFIG, SLOW, 100, name, role=Role.PREFILL if name[0] == "p" else Role.DECODE,
            kv_bytes_per_token=10.0,
        )
        for name in names
    ]  # fmt: skip
    topology = build_topology("switch", names, Link("test", 100.0, 0.05))
    system = System(topology, failures=Failures((Outage(failing, 4.0),)))
    got = simulate(Given([request(0, 0.0, 20, 3)]), instances, system=system).requests
    # Prefilled at 3 s, half sent at 4 s. The target is replaced; the source costs a new start.
    arrived = 4.0 + 2.05 if failing == "d" else 4.0 + 3.0 + 2.05
    assert got.transfer_end_s[0] == pytest.approx(arrived)
    assert got.finished_s[0] == pytest.approx(arrived + 3 * 1.1)
    assert got.retries[0] == (failing == "p")


def test_failures_that_are_drawn_repeat() -> None:
    def run(seed: int) -> Records:
        system = System(failures=Failures(mtbf_s=40.0, mttr_s=10.0, seed=seed))
        return simulate(Given([request(i, i, 20, 5) for i in range(60)]), two(), system=system)

    assert everything(run(1)) == everything(run(1))
    assert run(1).changes != run(2).changes
    assert sum(run(1).requests.retries) > 0


def test_scaling_up_takes_its_delay_and_down_drains() -> None:
    scaling = Autoscaling(high=4, low=2, interval_s=5.0, start_delay_s=7.0)
    rush = [request(i, 0.1 * i, 30, 20) for i in range(60)]
    tail = [request(60 + i, 150.0 + 20 * i, 10, 2) for i in range(10)]
    records = simulate(
        Given([*rush, *tail]), [Instance(CONFIG, SLOW, 100, f"i{i}") for i in range(3)],
        ROUTERS.build("least_loaded"), system=System(autoscaling=scaling),
    )  # fmt: skip
    assert records.requests.count(Status.FINISHED) == 70
    by_instance = [
        [(c.time_s, c.state) for c in records.changes if c.instance == i] for i in (0, 1)
    ]
    assert by_instance[0] == []
    assert by_instance[1][:3] == [
        (0.0, State.STOPPED), (5.0, State.STARTING), (12.0, State.UP),
    ]  # fmt: skip
    assert [state for _, state in by_instance[1][3:5]] == [State.DRAINING, State.STOPPED]
    # It takes nothing before it is up, nor once it drains.
    sent = records.requests.column("queued_s")[records.requests.column("instance") == 1]
    assert sent.min() >= 12.0
    assert sent.max() <= by_instance[1][3][0] + 5


def test_scaling_saves_instances_and_costs_waiting() -> None:
    requests = [request(i, 1.0 * i, 30, 20) for i in range(100)]
    instances = [Instance(CONFIG, SLOW, 100, f"i{i}") for i in range(4)]
    always = simulate(Given(requests), instances, ROUTERS.build("least_loaded"))
    scaled = simulate(
        Given(requests), instances, ROUTERS.build("least_loaded"),
        system=System(autoscaling=Autoscaling(high=6, low=2, start_delay_s=10.0)),
    )  # fmt: skip
    wait = [np.nanmean(r.requests.column("first_token_s")) for r in (always, scaled)]
    assert wait[1] > wait[0]


def test_errors() -> None:
    with pytest.raises(UnknownNameError, match="unknown instance 'c'"):
        system = System(failures=Failures((Outage("c", 1.0),)))
        simulate(Given([request(0, 0.0, 1, 1)]), two(), system=system)
    with pytest.raises(InputError, match="at_s"):
        Outage("a", -1.0)
    with pytest.raises(InputError, match="mttr_s must be positive, not 0"):
        Failures(mttr_s=0.0)
    with pytest.raises(InputError, match="low must be from 0 to high"):
        Autoscaling(high=1.0, low=2.0)


@st.composite
def deployments(draw: st.DrawFn) -> tuple[list[Instance], System, str, list[Any]]:
    """Small deployments of every kind, tight in memory, with failures and scaling."""
    split = draw(st.booleans())
    roles = (
        [Role.PREFILL] * draw(st.integers(1, 3)) + [Role.DECODE] * draw(st.integers(1, 3))
        if split else []
    )  # fmt: skip
    roles += [Role.BOTH] * draw(st.integers(0 if split else 1, 2))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    config = replace(
        CONFIG,
        async_scheduling=bool(rng.integers(2)),
        enable_prefix_caching=bool(rng.integers(2)),
        scheduler_reserve_full_isl=bool(rng.integers(2)),
        max_num_seqs=int(rng.integers(1, 9)),
        scheduling_policy=str(rng.choice(["fcfs", "priority"])),
    )
    instances = [
        Instance(
            config,
            SLOW,
            int(rng.integers(6, 14)),
            f"i{i}",
            role=role,
            model="ab"[int(rng.integers(2))],
            group=role.value,
            kv_bytes_per_token=float(rng.integers(0, 30)),
            num_layers=int(rng.integers(1, 5)),
        )
        for i, role in enumerate(roles)
    ]
    kinds = sorted(TOPOLOGIES)
    topology = build_topology(
        str(rng.choice(kinds)), [one.name for one in instances], Link("test", 100.0, 0.05)
    )
    handover = HandoverOptions(
        draw(st.sampled_from(["after_prefill", "layerwise"])),
        draw(st.sampled_from(["decode", "prefill"])),
        ROUTERS.build(str(rng.choice(ROUTERS.names()))),
    )
    failures = Failures(
        tuple(
            Outage(one.name, float(rng.uniform(0, 60)), None if rng.integers(4) == 0 else 5.0)
            for one in instances
            if rng.integers(3) == 0
        ),
        mtbf_s=draw(st.sampled_from([None, None, 80.0])),
        mttr_s=5.0,
    )
    scaling = draw(st.sampled_from([None, Autoscaling(1, 3.0, 1.0, 4.0, 6.0)]))
    requests = [
        request(
            i, float(t), int(rng.integers(15, 80)), int(rng.integers(1, 40)),
            prefix_block_ids=(0,) if rng.integers(2) else (), priority=int(rng.integers(3)),
            model=[None, None, "a", "b"][int(rng.integers(4))],
        )
        for i, t in enumerate(np.sort(rng.uniform(0, 40, int(rng.integers(1, 25)))))
    ]  # fmt: skip
    router = draw(st.sampled_from(ROUTERS.names()))
    return instances, System(topology, handover, failures, scaling), router, requests


@settings(max_examples=400, deadline=None)
@given(deployments())
def test_no_deployment_loses_a_request_or_stands_still(
    deployment: tuple[list[Instance], System, str, list[Any]],
) -> None:
    instances, system, router, requests = deployment
    records = simulate(Given(requests), instances, ROUTERS.build(router), system=system)
    got = records.requests
    assert len(got) == len(requests)
    for row, spec in enumerate(requests):
        if got.status[row] == Status.REJECTED:
            assert row in got.reasons
            continue
        assert got.status[row] == Status.FINISHED
        assert got.arrival_s[row] <= got.first_token_s[row] <= got.finished_s[row]
        last = instances[got.instance[row]]
        assert spec.model in (None, last.model)
        if not math.isnan(got.transfer_end_s[row]):
            assert last.role is Role.DECODE
            assert instances[got.prefill_instance[row]].role is Role.PREFILL
            assert got.transfer_start_s[row] <= got.transfer_end_s[row] <= got.finished_s[row]
    for one in records.instances:
        ends, starts = one.steps.column("end_s"), one.steps.column("start_s")
        assert (starts[1:] >= ends[:-1]).all()
        assert one.steps.kv_blocks_peak <= one.kv_blocks
