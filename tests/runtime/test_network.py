"""Flows over links: fair shares, closed forms, conservation of bytes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.hardware.link import Link
from servesim.hardware.topologies import TOPOLOGIES, build_topology
from servesim.hardware.topology import Topology
from servesim.runtime.network.fabric import Fabric
from servesim.runtime.network.fairness import fair_rates
from servesim.runtime.network.flows import Flow, Network

LINK = Link("test", 100.0, 0.5)


def network(kind: str, count: int, **options: object) -> Network:
    names = [f"n{i}" for i in range(count)]
    return Network(Fabric(build_topology(kind, names, LINK, **options)))


def drain(net: Network) -> dict[int, float]:
    """When each flow, by identity, has sent its last byte."""
    done: dict[int, float] = {}
    while (now := net.next_sent_s()) < math.inf:
        for flow in net.take_sent(now):
            done[id(flow)] = now
    return done


def test_one_flow_takes_bytes_over_bandwidth() -> None:
    net = network("switch", 3)
    flow = net.start(2.0, "n0", "n1", 250.0)
    assert drain(net) == {id(flow): pytest.approx(4.5)}
    assert flow.path.latency_s == LINK.latency


def test_flows_into_one_node_share_its_link_and_speed_up_when_one_ends() -> None:
    net = network("switch", 3)
    short = net.start(0.0, "n0", "n2", 100.0)
    long = net.start(0.0, "n1", "n2", 300.0)
    # 50 B/s each until 2 s; then 200 B are left at 100 B/s.
    assert drain(net) == {id(short): pytest.approx(2.0), id(long): pytest.approx(4.0)}


def test_a_flow_that_comes_later_slows_the_first() -> None:
    net = network("switch", 3)
    first = net.start(0.0, "n0", "n2", 200.0)
    second = net.start(1.0, "n1", "n2", 100.0)
    # first: 100 B alone in 1 s, then both have 100 B left at 50 B/s.
    assert drain(net) == {id(first): pytest.approx(3.0), id(second): pytest.approx(3.0)}


def test_both_directions_at_once() -> None:
    net = network("full", 2)
    there, back = net.start(0.0, "n0", "n1", 100.0), net.start(0.0, "n1", "n0", 100.0)
    assert drain(net) == {id(there): pytest.approx(1.0), id(back): pytest.approx(1.0)}


def test_what_a_bottleneck_leaves_goes_to_the_others() -> None:
    # A and B cross link 0 (10), B and C link 1 (100): A and B get 5, C the 95 that are left.
    assert fair_rates([(0,), (0, 1), (1,)], {0: 10.0, 1: 100.0}) == [5.0, 5.0, 95.0]


def test_within_a_node_nothing_is_sent() -> None:
    net = network("full", 2)
    flow = net.start(1.0, "n0", "n0", 1e9)
    assert drain(net) == {id(flow): 1.0}
    assert net.carried == {}


def test_a_cancelled_flow_frees_its_share() -> None:
    net = network("switch", 3)
    gone, stays = net.start(0.0, "n0", "n2", 1000.0), net.start(0.0, "n1", "n2", 100.0)
    net.cancel(1.0, gone)
    assert drain(net) == {id(stays): pytest.approx(1.5)}
    assert sum(net.carried.values()) == pytest.approx(2 * (50.0 + 100.0))


routes = st.lists(st.sets(st.integers(0, 4), min_size=1).map(sorted), min_size=1, max_size=8)
capacities = st.lists(st.floats(0.5, 1e3), min_size=5, max_size=5)


@given(routes, capacities)
def test_shares_are_max_min_fair(routes: list[list[int]], values: list[float]) -> None:
    capacity = dict(enumerate(values))
    rates = fair_rates(routes, capacity)
    load = {
        k: sum(r for r, route in zip(rates, routes, strict=True) if k in route) for k in range(5)
    }
    for link, total in load.items():
        assert total <= capacity[link] * (1 + 1e-9)
    for rate, route in zip(rates, routes, strict=True):
        # Some full link gives nobody more than this flow.
        assert any(
            load[link] >= capacity[link] * (1 - 1e-9)
            and all(rate >= r * (1 - 1e-9) for r, o in zip(rates, routes, strict=True) if link in o)
            for link in route
        )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(TOPOLOGIES)),
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0, 1e4), st.floats(0, 20)),
        min_size=1,
        max_size=10,
    ),
)
def test_every_byte_arrives_and_no_link_carries_more_than_it_can(
    kind: str, transfers: list[tuple[int, int, float, float]]
) -> None:
    net = network(kind, 6)
    waiting = sorted(transfers, key=lambda t: t[3])
    flows: list[Flow] = []
    done: list[tuple[Flow, float]] = []
    while waiting or net.next_sent_s() < math.inf:
        at, end = (waiting[0][3] if waiting else math.inf), net.next_sent_s()
        if at <= end:
            a, b, size, _ = waiting.pop(0)
            flows.append(net.start(at, f"n{a}", f"n{b}", size))
        else:
            done += [(flow, end) for flow in net.take_sent(end)]
    assert len(done) == len(flows) == len(transfers)
    assert all(flow.left == 0 for flow in flows)
    hops = sum(flow.size * len(flow.path.links) for flow in flows)
    assert sum(net.carried.values()) == pytest.approx(hops)
    last = max(time for _, time in done)
    for link, carried in net.carried.items():
        assert carried <= net.fabric.capacity[link] * last * (1 + 1e-9) + 1e-6


def test_shapes() -> None:
    def hops(kind: str, a: int, b: int, **options: object) -> int:
        return len(network(kind, 8, **options).fabric.path(f"n{a}", f"n{b}").links)

    assert hops("switch", 0, 7) == 2
    assert hops("full", 0, 7) == 1
    assert hops("ring", 0, 7) == 1
    assert hops("ring", 0, 4) == 4
    assert hops("mesh", 0, 7, shape=(2, 4)) == 4
    assert hops("torus", 0, 7, shape=(2, 4)) == 2
    assert hops("torus", 0, 7, shape=(2, 2, 2)) == 3
    assert hops("tree", 0, 3) == 2
    assert hops("tree", 0, 4) == 4
    assert hops("multi_node", 0, 7, fanout=4) == 4


def test_an_oversubscribed_uplink_is_the_bottleneck() -> None:
    for kind, options, rate in (
        ("tree", {"uplink": 1.0}, 50.0),
        ("fat_tree", {}, 100.0),
        ("fat_tree", {"spines": 1}, 50.0),
        ("multi_node", {"fanout": 4, "nic": 0.5}, 25.0),
    ):
        net = network(kind, 8, **options)
        flows = [net.start(0.0, f"n{i}", f"n{4 + i}", 100.0) for i in range(2)]
        assert [flow.rate for flow in flows] == pytest.approx([rate, rate])


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'torus'"):
        network("torsu", 4)
    with pytest.raises(InputError, match="a grid of 2x3 does not hold 4"):
        network("mesh", 4, shape=(2, 3))
    with pytest.raises(InputError, match="'ring'"):
        network("ring", 4, fanout=2)
    apart = Network(Fabric(Topology(("a", "b"))))
    with pytest.raises(UnsupportedError, match="no link leads from a to b"):
        apart.start(0.0, "a", "b", 1.0)
