"""Placements prove that everything fits and is connected."""

from dataclasses import replace

import pytest

from servesim.errors import CapacityError, UnknownNameError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.collective import Collective
from servesim.graph.ops.gemm import Gemm
from servesim.graph.work import CollectiveWork, GemmWork
from servesim.hardware.collectives import CollectiveCost
from servesim.hardware.cost import Cost, Source
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.link import Link
from servesim.hardware.placement import Placement
from servesim.hardware.topology import Topology, transfer_seconds

WIRE = Link("wire", bandwidth=1e9, latency=1e-6, devices=4)
UP, DOWN = Gemm(4000, 1000), Gemm(1000, 4000)
WEIGHTS = 3 * (UP.weight_bytes + DOWN.weight_bytes)


def graph(ranks=1):
    ops = (Op("up", UP), Op("sum", Collective("all_reduce", 4000, ranks), ("up",)))
    layer = Block("layer", (*ops, Op("down", DOWN, ("sum",))), layers=(0, 1, 2))
    return OpGraph("toy", (layer,), (), 0, 0, WEIGHTS, 1000, 10, 10, tensor_parallel_size=ranks)


def device(name="gpu", capacity=1e9, link=WIRE):
    return Device(name, "gpu", {"bf16": 1e12}, MemoryTier("HBM", capacity, 1e12), scale_up=link)


def test_weights_must_fit():
    Placement.tensor_parallel(graph(), device(capacity=WEIGHTS))
    with pytest.raises(CapacityError, match=r"take 0.04 GiB on each of 1 x gpu, which has 0.04"):
        Placement.tensor_parallel(graph(), device(capacity=WEIGHTS - 1))


def test_a_group_must_be_connected():
    Placement.tensor_parallel(graph(4), device())
    with pytest.raises(UnsupportedError, match="wire joins 4"):
        Placement.tensor_parallel(graph(8), device())
    with pytest.raises(UnsupportedError, match="no link"):
        Placement.tensor_parallel(graph(2), device(link=None))


def test_collectives_go_to_the_link_and_the_rest_to_the_device():
    class One:
        def cost(self, work):
            return Cost(1.0, Source.MEASURED)

    placement = Placement.tensor_parallel(graph(2), device(), One())
    reduce = CollectiveWork("all_reduce", 8000.0, 2)
    assert placement.cost("gpu", GemmWork(1, 1, 1)).seconds == 1
    assert placement.cost("gpu", reduce) == CollectiveCost(WIRE).cost(reduce)


def test_describe():
    (row,) = Placement.tensor_parallel(graph(2), device()).describe()
    assert (row.name, row.ranks, row.operators, row.link) == ("gpu", 2, 9, "wire")
    assert row.weight_bytes == WEIGHTS


def split(edges=((("gpu", "pim", WIRE),)), where="pim"):
    devices = {"gpu": device(), "pim": device("pim")}
    topology = Topology(("gpu", "pim"), tuple(edges))
    return Placement(graph(), devices, "gpu", {("layer", "down"): where}, topology)


def test_operators_on_two_devices_exchange_their_results():
    placement = split()
    assert [t.ends for t in placement.transfers] == [("pim", "gpu"), ("gpu", "pim")]
    assert [t.producer.name for t in placement.transfers] == ["down", "sum"]
    rows = {row.name: row for row in placement.describe()}
    assert rows["gpu"].weight_bytes == 3 * UP.weight_bytes
    assert rows["pim"].weight_bytes == 3 * DOWN.weight_bytes
    assert (rows["gpu"].operators, rows["pim"].operators) == (6, 3)
    # The all-reduce of 10 tokens of 4000 16-bit elements: 80 kB at 1 GB/s and 1 µs.
    assert placement.transfers[1].cost(BatchShape.of_tokens(10)).seconds == pytest.approx(81e-6)


def test_every_transfer_needs_a_route():
    with pytest.raises(UnsupportedError, match="no link leads from pim to gpu"):
        split(edges=())


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean 'pim'"):
        split(where="pin")
    with pytest.raises(UnknownNameError, match="did you mean 'layer/down'"):
        Placement(graph(), {"gpu": device()}, "gpu", {("layer", "dawn"): "gpu"})
    with pytest.raises(UnknownNameError):
        Placement(graph(), {"gpu": device()}, "cpu")
    with pytest.raises(UnknownNameError):
        Topology(("a",), (("a", "b", WIRE),))
    with pytest.raises(UnknownNameError):
        Topology(("a",)).route("a", "b")


def test_routes_take_the_least_latency():
    slow = replace(WIRE, name="slow", latency=5e-6)
    narrow = replace(WIRE, name="narrow", bandwidth=5e8)
    net = Topology(("a", "b", "c"), (("a", "b", slow), ("a", "c", WIRE), ("c", "b", narrow)))
    route = net.route("a", "b")
    assert [link.name for link in route] == ["wire", "narrow"]
    assert net.route("a", "a") == ()
    # 2 µs of latency, and 1 MB at the narrower 0.5 GB/s.
    assert transfer_seconds(route, 1e6) == pytest.approx(2002e-6)
    assert transfer_seconds((), 1e6) == 0
    assert len(Topology.fully_connected("abcd", WIRE).edges) == 6
