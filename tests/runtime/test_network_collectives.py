"""Collectives as transfers: closed forms on simple networks, contention on others."""

from __future__ import annotations

import math

import pytest

from servesim.errors import UnknownNameError, UnsupportedError
from servesim.graph.work import CollectiveWork, GemmWork
from servesim.hardware.collectives import EFFICIENCY, LAUNCH, STEPS, WIRE, closed_form
from servesim.hardware.link import Link
from servesim.hardware.topologies import build_topology
from servesim.runtime.network.collective_cost import TopologyCollectives
from servesim.runtime.network.collectives import ALGORITHMS, rounds_of, seconds
from servesim.runtime.network.fabric import Fabric

BANDWIDTH, LATENCY = 100e9, 2e-6
LINK = Link("test", BANDWIDTH, LATENCY)
SIZE = 64e6


def fabric(kind: str, count: int, **options: object) -> Fabric:
    return Fabric(build_topology(kind, [f"n{i}" for i in range(count)], LINK, **options))


def timed(where: Fabric, operation: str, algorithm: str, count: int, group: int = 1) -> float:
    nodes = [f"n{i}" for i in range(count)]
    return seconds(where, rounds_of(operation, algorithm, nodes, SIZE, group))


@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["ring", "switch", "full"])
@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce_scatter"])
def test_rings_take_their_closed_form(operation: str, kind: str, count: int) -> None:
    steps, wire = STEPS[operation](count), WIRE[operation](count) * SIZE
    got = timed(fabric(kind, count), operation, "ring", count)
    assert got == pytest.approx(steps * LATENCY + wire / BANDWIDTH)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_other_all_reduces_on_a_switch(count: int) -> None:
    where, depth = fabric("switch", count), math.log2(count)
    tree = timed(where, "all_reduce", "tree", count)
    assert tree == pytest.approx(2 * depth * (LATENCY + SIZE / BANDWIDTH))
    one_shot = timed(where, "all_reduce", "one_shot", count)
    assert one_shot == pytest.approx(LATENCY + (count - 1) * SIZE / BANDWIDTH)
    two_shot = timed(where, "all_reduce", "two_shot", count)
    assert two_shot == pytest.approx(2 * LATENCY + 2 * (count - 1) / count * SIZE / BANDWIDTH)


def test_every_algorithm_moves_at_least_what_it_must() -> None:
    for operation, algorithms in ALGORITHMS.items():
        for name in algorithms:
            sends = [s for r in rounds_of(operation, name, list("abcd"), SIZE) for s in r]
            per_node = sum(size for _, _, size in sends) / 4
            least = {"broadcast": 3 / 4, "send": 1 / 4}.get(operation, WIRE[operation](4))
            assert per_node >= least * SIZE * (1 - 1e-9), (operation, name)


def test_all_to_all_shares_the_links_of_a_ring() -> None:
    # Eight on a ring send a share of 1/8 to each other. Going one way, distances 1, 2 and 3 load
    # every link with 6 shares; the four opposite nodes go either way: at most 4 shares more.
    got = timed(fabric("ring", 8), "all_to_all", "direct", 8)
    share = SIZE / 8 / BANDWIDTH
    assert 6 * share <= got <= 10 * share + 4 * LATENCY
    assert got > timed(fabric("full", 8), "all_to_all", "direct", 8)


def test_two_levels_help_where_the_way_between_servers_is_narrow() -> None:
    where = fabric("multi_node", 8, fanout=4, nic=1.0)
    flat = timed(where, "all_reduce", "ring", 8)
    levels = timed(where, "all_reduce", "hierarchical", 8, group=4)
    # Inside: 3/4 of the payload twice. Across: four rings of two share the way out.
    inside, across = 2 * 3 / 4 * SIZE / BANDWIDTH, 2 * (1 / 2 * SIZE / 4) * 4 / BANDWIDTH
    assert levels == pytest.approx(inside + across + 6 * LATENCY + 2 * 2 * LATENCY)
    assert flat == pytest.approx(14 * (2 * LATENCY + SIZE / 8 / BANDWIDTH))
    narrow = fabric("multi_node", 8, fanout=4, nic=0.25)
    assert timed(narrow, "all_reduce", "hierarchical", 8, group=4) < 0.8 * timed(
        narrow, "all_reduce", "ring", 8
    )


def test_the_cost_model_takes_the_fastest() -> None:
    names = tuple(f"n{i}" for i in range(8))
    model = TopologyCollectives(build_topology("switch", names, LINK), names)
    for payload in (1e3, 1e5, 1e6, 1e8):
        got = model.cost(CollectiveWork("all_reduce", payload, 8)).seconds
        assert got <= closed_form(LINK, "all_reduce", 8, payload) * (1 + 1e-9)
        assert got >= LAUNCH + WIRE["all_reduce"](8) * payload / BANDWIDTH / EFFICIENCY
    assert model.cost(CollectiveWork("all_reduce", 1e6, 1)).seconds == 0.0


def test_errors() -> None:
    names = ("a", "b")
    model = TopologyCollectives(build_topology("full", names, LINK), names)
    with pytest.raises(UnsupportedError, match="the topology has 2"):
        model.cost(CollectiveWork("all_reduce", 1.0, 4))
    with pytest.raises(UnknownNameError, match="all_reduce"):
        model.cost(CollectiveWork("all_reduc", 1.0, 2))
    with pytest.raises(UnknownNameError, match="two_shot"):
        rounds_of("all_reduce", "tow_shot", names, 1.0)
    with pytest.raises(UnsupportedError, match="gemm"):
        model.cost(GemmWork(1, 1, 1))
