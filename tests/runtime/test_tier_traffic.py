"""Traffic of KV tiers over the network: shares by hand, and random systems to their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from runtime_runs import Given, request

from servesim.errors import UnknownNameError, UnsupportedError
from servesim.hardware.link import Link
from servesim.hardware.topologies import build_topology
from servesim.hardware.topology import Topology
from servesim.runtime.cluster import Cluster, simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.failures import Failures
from servesim.runtime.handover import HandoverOptions
from servesim.runtime.instance import DEFAULT_OPTIONS, Instance
from servesim.runtime.records import Records, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role
from servesim.runtime.routers.round_robin import RoundRobin
from servesim.runtime.step import LinearStepModel
from servesim.runtime.system import System
from servesim.runtime.tiers.options import Offload, Tier
from servesim.runtime.tiers.ways import FlowQueue

#: A token of prefill takes 10 ms, a step nothing besides; KV has a byte a token.
MODEL = LinearStepModel(per_token_s=0.01)
SIZE = 4
SLOW = Link("slow", 1000.0, 0.0)


def tier(name: str = "host", **more: Any) -> Tier:
    return Tier(name=name, **{"capacity_bytes": 1e6, "bandwidth": 1000.0, **more})


def engine(name: str, *tiers: Tier, blocks: int = 1000, **more: Any) -> Instance:
    config = EngineConfig(
        block_size=SIZE, max_num_seqs=4, max_num_batched_tokens=64, async_scheduling=False
    )
    parts: dict[str, Any] = {
        "chunk_tokens": 8,
        "bytes_per_token": 1.0,
        "num_layers": 4,
        "layerwise": False,
    }
    offload = Offload(tiers=tiers, **parts) if tiers else None
    given = {"name": name, "kv_bytes_per_token": 1.0, **more}
    return Instance(config, MODEL, blocks, offload=offload, **given)


def asked(number: int, arrival_s: float, tokens: int, *ids: int, output: int = 1) -> RequestSpec:
    more = {"prefix_block_ids": ids, "prefix_block_size": SIZE}
    return request(number, arrival_s, tokens, output, **more)


def first_tokens(records: Records) -> list[float]:
    return [float(time) for time in records.requests.column("first_token_s")]


def recalls(count: int, *, pool: Tier, topology: Topology | None = None) -> list[float]:
    """How long ``count`` engines, at once, wait each for 32 bytes that another one computed."""
    names = ["a", "b", "c", "d"]
    prompts = [asked(0, 0.0, 33, *range(8)), asked(1, 0.0, 33, *range(100, 108))]
    again = [asked(2 + i, 9.0, 33, *range(100 * i, 100 * i + 8)) for i in range(count)]
    engines = [engine(name, pool) for name in names]
    records = simulate(Given([*prompts, *again]), engines, system=System(topology))
    return [time - 9.0 - 0.01 for time in first_tokens(records)[2:]]


def test_two_engines_that_recall_from_one_pool_at_once_take_twice_as_long_as_one() -> None:
    assert recalls(1, pool=tier(pool="all")) == pytest.approx([0.032])
    assert recalls(2, pool=tier(pool="all")) == pytest.approx([0.064, 0.064])


def test_a_pool_behind_a_narrow_link_is_as_fast_as_the_link() -> None:
    # A fast pool; its node has 1000 B/s to the switch, each engine 500.
    half = Link("half", 500.0, 0.001)
    edges = [(name, "switch", half) for name in "abcd"]
    topology = Topology((*"abcd", "switch", "far"), (*edges, ("far", "switch", SLOW)))
    pool = tier(pool="all", at="far", bandwidth=1e9, latency_s=0.002)
    # Both engines get their 500, and wait for 1 ms of their link and 2 ms of the tier.
    assert recalls(2, pool=pool, topology=topology) == pytest.approx([0.067, 0.067])


def test_recalls_of_one_engine_queue_up() -> None:
    one, first, second = tier(pool="all"), range(8), range(100, 108)
    given = [asked(0, 0.0, 33, *first), asked(1, 0.0, 1), asked(2, 0.0, 33, *second)]
    given += [asked(3, 0.0, 1), asked(4, 9.0, 1), asked(5, 9.0, 33, *first)]
    given += [asked(6, 9.0, 1), asked(7, 9.0, 33, *second)]
    records = simulate(Given(given), [engine("a", one), engine("b", one)])
    # The second engine takes both in one step: 64 bytes, then a token of each.
    assert first_tokens(records)[5] == pytest.approx(9.0 + 0.064 + 0.02)
    assert first_tokens(records)[7] == pytest.approx(9.0 + 0.064 + 0.02)


def test_a_recall_and_a_handover_share_the_host_link() -> None:
    # prefill - host - rack, and behind the rack who decodes and who recalls.
    fast = Link("fast", 1e9, 0.0)
    ends = [("prefill", "host", fast), ("host", "rack", SLOW)]
    ends += [("rack", name, fast) for name in ("decode", "both0", "both1")]
    topology = Topology(("prefill", "host", "rack", "decode", "both0", "both1"), tuple(ends))
    pool = tier(pool="all", at="host", bandwidth=1e9)
    engines = [
        engine("prefill", role=Role.PREFILL),
        engine("both0", pool),
        engine("both1", pool),
        engine("decode", role=Role.DECODE),
    ]
    warm = [asked(0, 0.0, 1), asked(1, 0.0, 33, *range(8)), asked(2, 0.0, 1)]
    sent = asked(3, 1.0, 64, output=2)  # prefilled at 1.64
    recalled = asked(5, 1.64, 33, *range(8))

    def run(*last: RequestSpec) -> Records:
        system = System(topology, HandoverOptions(first_token="prefill"))
        given = [*warm, sent, asked(4, 1.0, 1), *last]
        return simulate(Given(given), engines, RoundRobin(), system=system)

    alone = run(asked(5, 9.0, 33, *range(8)))
    assert alone.requests.column("transfer_end_s")[3] == pytest.approx(1.704)
    assert first_tokens(alone)[5] == pytest.approx(9.0 + 0.032 + 0.01)
    # 500 B/s each: the recall's 32 bytes take 64 ms, after which half of the 64 bytes are left.
    both = run(recalled)
    assert first_tokens(both)[5] == pytest.approx(1.64 + 0.064 + 0.01)
    assert both.requests.column("transfer_end_s")[3] == pytest.approx(1.64 + 0.064 + 0.032)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_tier_on_a_network_of_its_own_is_as_fast_as_on_its_link(
    seed: int, asynchronous: bool
) -> None:
    rng = np.random.default_rng(seed)
    given = requests(rng)
    wide = Topology(("a", "far"), (("a", "far", Link("wide", 1e15, 0.0)),))

    def run(at: str) -> Records:
        one = engine("a", tier(at=at, bandwidth=777.0, latency_s=1e-3), blocks=40)
        config = replace(one.config, async_scheduling=asynchronous)
        return simulate(Given(given), [replace(one, config=config)], system=System(wide))

    own, network = run(""), run("far")
    assert own.requests.column("recalled_tokens").sum() > 0
    for name in ("first_token_s", "finished_s", "recalled_tokens", "preemptions"):
        assert network.requests.column(name).tolist() == pytest.approx(
            own.requests.column(name).tolist()
        )
    gaps = [records.instances[0].steps.gaps() for records in (own, network)]
    assert gaps[1].values.tolist() == pytest.approx(gaps[0].values.tolist())


def test_a_node_that_is_not_there() -> None:
    with pytest.raises(UnknownNameError, match="node of the network"):
        simulate(Given([asked(0, 0.0, 9)]), [engine("a", tier(at="far"))])


def test_ranks_in_lock_step_cannot_wait_for_a_network() -> None:
    ranks = [engine(name, tier(at="far"), wave="w") for name in "ab"]
    system = System(build_topology("switch", ["a", "b", "far"], SLOW))
    with pytest.raises(UnsupportedError, match="cannot wait for a network"):
        simulate(Given([asked(0, 0.0, 9)]), ranks, system=system)


# Everything at once.


def requests(rng: np.random.Generator) -> list[RequestSpec]:
    times = np.sort(rng.uniform(0, 20, int(rng.integers(20, 40))))
    return [
        asked(
            number,
            float(time),
            int(rng.integers(10, 90)),
            *range(1000 * int(family), 1000 * int(family) + 12),
            output=int(rng.integers(40, 60)),
        )
        for number, (time, family) in enumerate(
            zip(times, rng.integers(0, 5, len(times)), strict=True)
        )
    ]


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
    return Cluster(Given(requests(rng)), made, RoundRobin(), DEFAULT_OPTIONS, around)


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
