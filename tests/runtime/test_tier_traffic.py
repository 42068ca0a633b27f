"""Traffic of KV tiers over the network: shares by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from runtime_runs import Given
from tiered_engines import asked, engine, families_of_requests, tier

from servesim.errors import UnknownNameError, UnsupportedError
from servesim.hardware.link import Link
from servesim.hardware.topologies import build_topology
from servesim.hardware.topology import Topology
from servesim.runtime.cluster import simulate
from servesim.runtime.handover import HandoverOptions
from servesim.runtime.records import Records
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role
from servesim.runtime.routers.round_robin import RoundRobin
from servesim.runtime.system import System
from servesim.runtime.tiers.options import Tier

SLOW = Link("slow", 1000.0, 0.0)


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
    given = families_of_requests(rng)
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
