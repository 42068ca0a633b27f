"""The search for a placement against all that there are, and within every memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_placers import WIRE, device, graph, placement

from servesim.errors import CapacityError
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, CacheGroup, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.gemm import Gemm
from servesim.hardware.estimate import Estimate
from servesim.hardware.placement import serial_seconds
from servesim.hardware.placers import PLACERS, Site, by_layers, divided, typical_step
from servesim.hardware.search import Search
from servesim.hardware.topology import Topology
from servesim.runtime.step_model import CompiledStepModel

STEP = typical_step(16, 2048)
SPEEDS = st.tuples(st.floats(1e10, 1e13), st.floats(1e12, 1e15))


def branched():
    """Two layers of three operators, the last of which reads both others, and a tail."""
    ops = (
        Op("a", Gemm(1024, 1024), ("@stream",)),
        Op("b", Attention(8, 8, 128, 128), ("a",)),
        Op("c", Gemm(1024, 1024), ("a", "b")),
    )
    blocks = (Block("layer", ops, (0, 1)), Block("tail", (Op("d", Gemm(512, 1024)),)))
    weights = 4 * Gemm(1024, 1024).weight_bytes + Gemm(512, 1024).weight_bytes
    return OpGraph("branched", blocks, (), 0, 0, weights, 1024, 1000, 4096)


def all_placements(whole, names):
    """Every assignment of the operators of every layer."""
    slots = [(b.name, layer, len(b.ops)) for b in whole.blocks for layer in b.layers or (None,)]
    for chosen in product(*(product(names, repeat=ops) for *_, ops in slots)):
        found = {(b, layer): names for (b, layer, _), names in zip(slots, chosen, strict=True)}
        yield divided(whole, lambda block, layer, found=found: found[block.name, layer])


#: What a graph is handed and hands on, as a whole or as a stage of a pipeline.
ENDS = {
    "chain": {},
    "branched": {},
    "first stage": {"hands_on": True},
    "middle stage": {"handed": True, "hands_on": True},
    "last stage": {"handed": True},
}


def of_kind(kind):
    """The graph: stages but the last have no tail."""
    if kind == "chain":
        return graph(2)
    found = replace(branched(), blocks=branched().blocks[: 1 if "hands_on" in ENDS[kind] else 2])
    return replace(found, weight_bytes=found.operator_weight_bytes)


@given(st.sampled_from(sorted(ENDS)), SPEEDS, SPEEDS, st.floats(0.3, 1.2))
@settings(deadline=None, max_examples=60)
def test_it_finds_the_optimum_of_all_placements(kind, one, other, room):
    whole = of_kind(kind)
    devices = {"gpu": device("gpu", whole.weight_bytes * room, *one),
               "other": device("other", whole.weight_bytes * 0.8, *other)}  # fmt: skip
    site = Site(devices, Topology.fully_connected(tuple(devices), WIRE), **ENDS[kind])
    rooms = {name: one.memory.capacity_bytes for name, one in devices.items()}
    search = Search(Estimate(whole, site, STEP), rooms)
    fitting = [p for p in all_placements(whole, tuple(devices)) if search.fits(p)]
    least = min(serial_seconds(site.placement(p), STEP) for p in fitting)
    found = search.best()
    assert search.fits(found)
    assert serial_seconds(site.placement(found), STEP) == pytest.approx(least, rel=1e-9)
    # The sum is that of the model that the runtime has of operators one after another.
    assert CompiledStepModel(site.placement(found)).seconds(STEP) == pytest.approx(least, rel=1e-9)


@given(
    st.lists(st.tuples(st.floats(0.1, 0.9), SPEEDS), min_size=1, max_size=3),
    st.sampled_from([1, 3, 12]),
    st.integers(0, 64),
    st.sampled_from(["line", "star"]),
)
@settings(deadline=None, max_examples=25)
def test_it_fits_and_is_never_worse(others, layers, prefill, shape):
    whole = graph(layers)
    names = [f"d{i}" for i in range(len(others) + 1)]
    devices = {names[0]: device(names[0], whole.weight_bytes)}
    for name, (share, speed) in zip(names[1:], others, strict=True):
        devices[name] = device(name, whole.weight_bytes * share, *speed)
    to = names[:-1] if shape == "line" else names[:1] * len(others)
    edges = tuple((a, b, WIRE) for a, b in zip(to, names[1:], strict=True))
    site = Site(devices, Topology(tuple(names), edges))
    options = {"decodes": 16, "context": 2048, "share": 1.0}
    placer = PLACERS.build("min_cost", {**options, "prefill_tokens": prefill})
    step = typical_step(16, 2048, prefill)
    found = site.placement(placer.place(whole, site))  # proves memories and routes
    seconds = serial_seconds(found, step)
    alone = by_layers(whole, site, lambda layer: site.default)
    assert seconds <= serial_seconds(site.placement(alone), step) * (1 + 1e-9)
    greedy = site.placement(PLACERS.build("greedy", options).place(whole, site))
    assert seconds <= serial_seconds(greedy, step) * (1 + 1e-9)


def test_it_divides_layers_where_memory_runs_out():
    whole = graph(8)
    room = whole.weight_bytes * 0.55
    devices = {"gpu": device("gpu", room), "slow": device("slow", bandwidth=1e11)}
    site = Site(devices, Topology.fully_connected(tuple(devices), WIRE))
    for kind in ("min_cost", "greedy"):
        placed = PLACERS.build(kind, {"share": 1.0}).place(whole, site)
        found = placement(placed, site)
        layers = [block for block in placed.graph.blocks if block.layers]
        assert len(layers) > 1
        # Within a layer of what fits.
        assert 0.85 * room < found.weight_bytes("gpu") <= room, kind
        placed.graph.lint()


def test_contexts_take_memory_too():
    # A memory of ten times the bandwidth, with room for the contexts of two layers in four.
    whole = replace(graph(4), caches=(CacheGroup("full", (0, 1, 2, 3), 4096.0),))
    kept = 64 * 4097 * 4096
    devices = {"gpu": device("gpu", 1e10), "fast": device("fast", 2.5 * kept, bandwidth=1e13)}
    site = Site(devices, Topology.fully_connected(tuple(devices), WIRE))
    placer = PLACERS.build("min_cost", {"context": 4096, "share": 1.0})
    found = placer.place(whole, site)
    there = {key[0] for key, name in found.where.items() if (key[1], name) == ("attention", "fast")}
    assert sum(len(b.layers) for b in found.graph.blocks if b.name in there) == 2


def test_what_fits_nowhere_is_refused():
    devices = {"gpu": device("gpu", 1e6), "other": device("other", 1e6)}
    site = Site(devices, Topology.fully_connected(tuple(devices), WIRE))
    with pytest.raises(CapacityError, match="no placement that fits"):
        PLACERS.build("min_cost").place(graph(), site)
