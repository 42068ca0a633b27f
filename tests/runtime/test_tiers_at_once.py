"""Random systems of KV tiers, handovers and failures, run to their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from runtime_runs import Given
from tiered_engines import engine, families_of_requests, tier

from servesim.hardware.link import Link
from servesim.hardware.topologies import build_topology
from servesim.runtime.cluster import Cluster
from servesim.runtime.failures import Failures
from servesim.runtime.handover import HandoverOptions
from servesim.runtime.instance import DEFAULT_OPTIONS
from servesim.runtime.records import Records, Status
from servesim.runtime.roles import Role
from servesim.runtime.routers.round_robin import RoundRobin
from servesim.runtime.system import System
from servesim.runtime.tiers.options import Tier
from servesim.runtime.tiers.ways import FlowQueue


def tiers(rng: np.random.Generator) -> list[Tier]:
    return [
        tier(
            name,
            capacity_bytes=float(rng.choice([24, 100, 1000])),
            bandwidth=float(rng.choice([30.0, 200.0, 5000.0])),
            latency_s=float(rng.choice([0.0, 0.01])),
            pool=str(rng.choice(["", name])),
            at=str(rng.choice(["", "host0", "host1"])),
            write=str(rng.choice(["through", "back"])),
            exclusive=bool(rng.integers(2)),
        )
        for name in ("dram", "nvme", "remote")[: int(rng.integers(1, 4))]
    ]


def system(rng: np.random.Generator) -> Cluster:
    below = tiers(rng)
    made = [
        engine(f"{role.value}{i}", *below, blocks=40, role=role, num_layers=3)
        for role, most in ((Role.PREFILL, 2), (Role.DECODE, 2), (Role.BOTH, 3))
        for i in range(int(rng.integers(1, most + 1)))
    ]
    made = [
        replace(
            one,
            config=replace(one.config, async_scheduling=bool(rng.integers(2))),
            offload=None
            if one.offload is None or rng.integers(4) == 0
            else replace(
                one.offload,
                layerwise=bool(rng.integers(2)),
                recall=str(rng.choice(["always", "cheaper"])),
            ),
        )
        for one in made
    ]
    around = System(
        build_topology(
            str(rng.choice(["switch", "ring", "full"])),
            [*(one.name for one in made), "host0", "host1"],
            Link("test", 100.0, 0.005),
        ),
        HandoverOptions(
            str(rng.choice(["after_prefill", "layerwise"])),  # type: ignore[arg-type]
            str(rng.choice(["decode", "prefill"])),  # type: ignore[arg-type]
        ),
        Failures(mtbf_s=10.0 if rng.integers(2) else None, mttr_s=2.0),
    )
    return Cluster(Given(families_of_requests(rng)), made, RoundRobin(), DEFAULT_OPTIONS, around)


def check_bytes(cluster: Cluster) -> int:
    """Nothing is lost between a tier and its ways; returns the tiers on the network."""
    on_network = 0
    hierarchies = [one.engine.tiers for one in cluster.members if one.engine.tiers is not None]
    for store in cluster.requests.pools.stores:
        assert store.bytes_in == store.bytes_out + store.resident
        assert 0 <= store.resident <= store.tier.capacity_bytes
        ways = [w for h in hierarchies for s, w in zip(h.stores, h.ways, strict=True) if s is store]
        to, back = [], []
        for way in ways:
            if isinstance(way.reader, FlowQueue):
                to += [way.writer, way.demoter]
                back.append(way.reader)
        if to:
            on_network += 1
            assert sum(queue.asked_bytes for queue in to) == store.bytes_in
            assert sum(queue.asked_bytes for queue in back) == store.read
        else:
            assert store.writer.carried_bytes == store.bytes_in
        for queue in (*to, *back):
            sent = queue.asked_bytes - queue.left_bytes
            assert queue.carried_bytes - 1e-6 <= sent <= queue.asked_bytes
    return on_network


def run_checked(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Records:
    """A run with the bytes of every tier checked after every event."""
    events, happen = cluster._events, cluster._events.happen
    last = 0.0

    def checked() -> float:
        nonlocal last
        now = happen()
        assert now >= last
        last = now
        check_bytes(cluster)
        return now

    monkeypatch.setattr(events, "happen", checked)
    return cluster.run()


def queues(cluster: Cluster) -> Sequence[FlowQueue]:
    hierarchies = [one.engine.tiers for one in cluster.members if one.engine.tiers is not None]
    ways = [way for tiers in hierarchies for way in tiers.ways]
    every = [queue for way in ways for queue in (way.reader, way.writer, way.demoter)]
    return [queue for queue in every if isinstance(queue, FlowQueue)]


def test_tiers_handovers_and_failures_together(monkeypatch: pytest.MonkeyPatch) -> None:
    recalled = lost = 0
    for seed in range(30):
        cluster = system(np.random.default_rng(seed))
        got = run_checked(cluster, monkeypatch).requests
        for row in range(len(got)):
            assert got.status[row] == Status.FINISHED or row in got.reasons, seed
            if got.status[row] == Status.FINISHED:
                assert got.arrival_s[row] <= got.first_token_s[row] <= got.finished_s[row], seed
        for queue in queues(cluster):
            assert queue.left_bytes == 0, seed
            assert queue.carried_bytes == queue.asked_bytes, seed
        recalled += sum(store.read > 0 for store in cluster.requests.pools.stores)
        lost += sum(got.retries)
    assert recalled > 20
    assert lost > 20
