"""Placers: what they put where, and that they keep within memories."""

from __future__ import annotations

import pytest

from servesim.errors import CapacityError, InputError, UnknownNameError
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.lm_head import LmHead
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.link import Link
from servesim.hardware.placement import Placement
from servesim.hardware.placers import PLACERS, Site
from servesim.hardware.topology import Topology

WIRE = Link("wire", bandwidth=1e11, latency=1e-6)
LAYER = Gemm(4096, 1024).weight_bytes + Gemm(1024, 1024).weight_bytes
HEAD = LmHead(1000, 1024).weight_bytes


def graph(layers=4):
    ops = (
        Op("qkv_proj", Gemm(4096, 1024), ("@stream",)),
        Op("attention", Attention(8, 8, 128, 128), ("qkv_proj",)),
        Op("o_proj", Gemm(1024, 1024), ("attention",)),
    )
    head = Block("head", (Op("lm_head", LmHead(1000, 1024)),))
    blocks = (Block("layer", ops, tuple(range(layers))), head)
    return OpGraph("toy", blocks, (), 0, 0, layers * LAYER + HEAD, 1024, 1000, 4096)


def device(name, capacity=1e9, bandwidth=1e12, flops=1e14):
    return Device(name, "gpu", {"bf16": flops}, MemoryTier("DRAM", capacity, bandwidth))


def site(gpu=None, other=None):
    devices = {"gpu": gpu or device("gpu"), "other": other or device("other", bandwidth=1e11)}
    return Site(devices, Topology.fully_connected(tuple(devices), WIRE))


def placement(placed, where):
    return Placement(placed.graph, where.devices, where.default, placed.where, where.topology)


def test_by_kind_takes_kinds_and_names():
    placed = PLACERS.build("by_kind", {"ops": {"attention": "other"}}).place(graph(), site())
    assert placed.where == {("layer", "attention"): "other"}
    both = {"gemm": "other", "o_proj": "gpu"}
    placed = PLACERS.build("by_kind", {"ops": both}).place(graph(), site())
    assert placed.where == {("layer", "qkv_proj"): "other", ("layer", "o_proj"): "gpu"}
    with pytest.raises(UnknownNameError, match="did you mean 'attention'"):
        PLACERS.build("by_kind", {"ops": {"atention": "other"}}).place(graph(), site())


def test_by_layer_divides_the_block():
    placed = PLACERS.build("by_layer", {"layers": {"1-2": "other"}}).place(graph(), site())
    assert [(b.name, b.layers) for b in placed.graph.blocks] == [
        ("layer", (0,)), ("layer/1", (1, 2)), ("layer/2", (3,)), ("head", ())
    ]  # fmt: skip
    placed.graph.lint()
    found = placement(placed, site())
    assert found.weight_bytes("other") == 2 * LAYER
    # Once there and once back, however many layers are there.
    assert [(t.ends, t.count) for t in found.transfers] == [
        (("gpu", "other"), 1), (("other", "gpu"), 1)
    ]  # fmt: skip
    for text in ("3-9", "2-1", "all"):
        with pytest.raises(InputError):
            PLACERS.build("by_layer", {"layers": {text: "other"}}).place(graph(), site())
    with pytest.raises(InputError, match="layer 2 is placed twice: on other and gpu"):
        twice = {"1-2": "other", "2-3": "gpu"}
        PLACERS.build("by_layer", {"layers": twice}).place(graph(), site())


@pytest.mark.parametrize("kind", ["greedy", "min_cost"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decodes": -1}, "decodes must be from 1 to 1000000, not -1"),
        ({"decodes": 10**20}, "decodes must be from 1"),
        ({"decodes": float("nan")}, "decodes must be an integer, not nan"),
        ({"context": 0}, "context must be from 1"),
        ({"context": "x"}, "context must be an integer, not 'x'"),
        ({"share": "x"}, "share must be a number, not 'x'"),
        ({"share": float("nan")}, "share must be from 0 to 1, not nan"),
        ({"share": 1.5}, "share must be from 0 to 1, not 1.5"),
    ],
)
def test_options_that_no_step_has_are_refused(kind, options, message):
    with pytest.raises(InputError, match=message):
        PLACERS.build(kind, options).place(graph(), site())


def test_memory_fit_fills_the_fastest_first():
    small = device("gpu", capacity=(HEAD + 2.5 * LAYER) / 0.5)
    where = site(small)
    placed = PLACERS.build("memory_fit", {"share": 0.5}).place(graph(), where)
    found = placement(placed, where)
    assert found.weight_bytes("gpu") == HEAD + 2 * LAYER
    assert found.weight_bytes("other") == 2 * LAYER
    tiny = site(small, device("other", capacity=LAYER, bandwidth=1e11))
    with pytest.raises(CapacityError, match="layer 2 of toy"):
        PLACERS.build("memory_fit", {"share": 0.5}).place(graph(), tiny)


def test_greedy_takes_what_ends_first():
    # Attention of much context: a memory of ten times the bandwidth repays the two transfers.
    fast = site(other=device("other", bandwidth=1e13))
    greedy = PLACERS.build("greedy", {"decodes": 64, "context": 4096})
    placed = greedy.place(graph(), fast)
    assert placed.where.get(("layer", "attention")) == "other"
    # Nothing repays them without context, nor on a slower device.
    short = PLACERS.build("greedy", {"decodes": 1, "context": 1})
    for placer in (short, greedy):
        assert set(placer.place(graph(), site()).where.values()) == {"gpu"}


def test_greedy_stays_within_memory():
    where = site(device("gpu", capacity=(HEAD + 2 * LAYER) / 0.7))
    placed = PLACERS.build("greedy").place(graph(), where)
    assert placement(placed, where).weight_bytes("gpu") <= HEAD + 2 * LAYER
    with pytest.raises(CapacityError, match="fits no memory"):
        PLACERS.build("greedy", {"share": 0.001}).place(graph(), where)
