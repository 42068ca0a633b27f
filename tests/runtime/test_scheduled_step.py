"""Steps scheduled over devices and links, against plain sums and their bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.experts import PooledExperts
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.norm import Norm
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.link import Link
from servesim.hardware.load import load_device
from servesim.hardware.placement import Placement
from servesim.hardware.power.accelerator import accelerator_power
from servesim.hardware.topology import Topology
from servesim.runtime.energy.capped import CappedScheduledStepModel, CappedStepModel
from servesim.runtime.parallel.shares import PrefillShareStepModel
from servesim.runtime.scheduled_step import OVERLAP, ScheduledStepModel, padded_parts, sub_batches
from servesim.runtime.step_model import CompiledStepModel

WIRE = Link("wire", bandwidth=1e11, latency=1e-6)
GPU = Device("gpu", "gpu", {"bf16": 1e14}, MemoryTier("HBM", 1e11, 1e12), scale_up=WIRE)
LAYERS = 12


def graph():
    ops = (
        Op("layernorm", Norm(4096, addends=1, weights=4096), ("@stream",)),
        Op("qkv_proj", Gemm(12288, 4096), ("layernorm",)),
        Op("attention", Attention(32, 32, 128, 128), ("qkv_proj",)),
        Op("o_proj", Gemm(4096, 4096), ("attention",)),
        Op("mlp", Gemm(4096, 4096), ("o_proj",)),
    )
    head = Block("head", (Op("lm_head", LmHead(1000, 4096)),))
    blocks = (Block("layer", ops, tuple(range(LAYERS))), head)
    return OpGraph("toy", blocks, (), 0, 0, 1e6, 4096, 1000, 4096)


def placement(other, op="attention"):
    topology = Topology.fully_connected(("gpu", "other"), WIRE)
    return Placement(
        graph(), {"gpu": GPU, "other": other}, "gpu", {("layer", op): "other"}, topology
    )


ALONE = Placement.tensor_parallel(graph(), GPU)
BESIDE = placement(load_device("hbm_pim"))
CONTEXTS = st.lists(st.integers(1, 3000), max_size=40)
PREFILLS = st.lists(st.tuples(st.integers(2, 300), st.integers(0, 900)), max_size=3)


def batch(contexts, prefills=()):
    array = np.asarray(contexts, dtype=np.int64)
    return BatchShape(
        tuple(prefills), len(contexts), sum(contexts), max(contexts, default=0), array
    )


@given(CONTEXTS, PREFILLS)
@settings(deadline=None, max_examples=40)
def test_one_device_takes_what_the_plain_model_says(contexts, prefills):
    shape = batch(contexts, prefills)
    plain, scheduled = CompiledStepModel(ALONE, (8, 32)), ScheduledStepModel(ALONE, (8, 32))
    assert scheduled.seconds(shape) == pytest.approx(plain.seconds(shape), rel=1e-12)
    assert not scheduled.needs_contexts


@given(CONTEXTS, PREFILLS)
@settings(deadline=None, max_examples=40)
def test_a_chain_over_two_devices_is_their_sum(contexts, prefills):
    other = Device("other", "cpu", {"bf16": 1e12}, MemoryTier("DDR", 1e12, 1e11))
    placed = placement(other, "mlp")
    shape = batch(contexts, prefills)
    expected = CompiledStepModel(placed).seconds(shape)
    assert ScheduledStepModel(placed).seconds(shape) == pytest.approx(expected, rel=1e-12)


@given(CONTEXTS, PREFILLS, st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_overlap_stays_within_its_bounds(contexts, prefills, parts):
    shape, model = batch(contexts, prefills), ScheduledStepModel(BESIDE, sub_batches=parts)
    seconds, rows = model.seconds(shape), model.cost_breakdown(shape)
    if not shape.tokens:
        assert seconds == 0
        return
    work = math.fsum(row.seconds for row in rows if row.label != OVERLAP)
    assert max(model.busy_seconds(shape).values()) <= seconds * (1 + 1e-9)
    assert seconds <= work * (1 + 1e-9)
    assert math.fsum(row.seconds for row in rows) == pytest.approx(seconds)
    assert sum(model.source_seconds().values()) == pytest.approx(seconds)


def test_interleaved_halves_hide_one_device_behind_the_other():
    shape = batch([1500] * 256)
    whole, halves = ScheduledStepModel(BESIDE), ScheduledStepModel(BESIDE, sub_batches=2)
    busy = halves.busy_seconds(shape)
    busiest, others = max(busy.values()), sum(busy.values()) - max(busy.values())
    took = halves.seconds(shape)
    assert took < whole.seconds(shape)
    # All but the ends of the pipeline: at most one layer's worth of the other resources.
    assert took <= busiest + 2 * others / LAYERS


def test_attention_takes_every_context_as_it_is():
    even, uneven = batch([1000] * 64), batch([500] * 63 + [1000 * 64 - 500 * 63])
    model = ScheduledStepModel(BESIDE)
    assert model.needs_contexts
    # In the channels of the long one 31 halves and 32.5 instead of 32 wholes; the pins as before.
    assert model.busy_seconds(uneven)["other"] > 1.45 * model.busy_seconds(even)["other"]
    # Without contexts they count as equal.
    assert model.decode_seconds(64, 64_000, 1000) == pytest.approx(model.seconds(even))


def test_prefills_attend_on_the_default_device():
    model = ScheduledStepModel(BESIDE)
    busy = model.busy_seconds(batch([], [(100, 400)]))
    assert busy["other"] == 0
    # 400 tokens of 16 KiB in each layer come back over the wire.
    assert busy["other->gpu"] == pytest.approx(LAYERS * (1e-6 + 400 * 16384 / 1e11))


@given(CONTEXTS, PREFILLS, st.integers(1, 4), st.booleans())
def test_sub_batches_are_a_partition(contexts, prefills, parts, known):
    shape = batch(contexts, prefills)
    if not known:
        shape = BatchShape(shape.prefills, *(shape.decodes, shape.decode_context), 3000)
    found = sub_batches(shape, parts)
    assert sum(part.tokens for part in found) == shape.tokens
    assert sum(part.decode_context for part in found) == shape.decode_context
    assert sum(part.sequences for part in found) == shape.sequences
    assert sorted(p for part in found for p in part.prefills) == sorted(shape.prefills)
    if shape.sequences >= parts:
        assert len(found) == parts or not shape.tokens


OPS = ("layernorm", "qkv_proj", "attention", "o_proj", "mlp")


@given(
    st.lists(st.sampled_from(["gpu", "cpu", "other"]), min_size=5, max_size=5),
    CONTEXTS,
    PREFILLS,
    st.integers(1, 2),
)
@settings(deadline=None, max_examples=60)
def test_any_placement_stays_within_the_bounds(names, contexts, prefills, parts):
    formats = {"bf16": 1e12, "fp32": 1e12}
    devices = {
        "gpu": GPU,
        "cpu": Device("cpu", "cpu", formats, MemoryTier("DDR", 1e12, 1e11)),
        "other": load_device("hbm_pim"),
    }
    where = {("layer", op): name for op, name in zip(OPS, names, strict=True)}
    # Between the others everything passes the GPU: two links, held together.
    topology = Topology(tuple(devices), (("gpu", "cpu", WIRE), ("gpu", "other", WIRE)))
    placed = Placement(graph(), devices, "gpu", where, topology)
    shape, model = batch(contexts, prefills), ScheduledStepModel(placed, sub_batches=parts)
    seconds = model.seconds(shape)
    work = math.fsum(r.seconds for r in model.cost_breakdown(shape) if r.label != OVERLAP)
    busiest = max(model.busy_seconds(shape).values(), default=0.0)
    assert busiest * (1 - 1e-9) <= seconds <= work * (1 + 1e-9)
    if parts == 1 and (not prefills or names[2] != "other"):
        # A chain of operators cannot overlap with itself.
        assert seconds == pytest.approx(work, rel=1e-9)


def expert_graph():
    """``graph`` with the experts of three data-parallel ranks behind each layer."""
    experts = PooledExperts(8, 2, 4096, 512, local_experts=3, parallel="expert", replicas=3)
    layer, head = graph().blocks
    return replace(graph(), blocks=(replace(layer, ops=(*layer.ops, Op("experts", experts))), head))


@given(CONTEXTS, PREFILLS, st.integers(0, 40), st.integers(0, 90), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_what_goes_with_one_device_takes_what_the_plain_models_say(
    contexts, prefills, padding, others, drafts
):
    """Steps of a wave, dummies among them, steps that verify drafts, and shared prompts."""
    shape = replace(batch(contexts, prefills), drafts=drafts)
    own = max(shape.tokens + padding, 1)
    shape = replace(shape, padded_tokens=own, group_tokens=own + others)
    alone = Placement.tensor_parallel(expert_graph(), GPU)
    plain, scheduled = CompiledStepModel(alone, (8, 32)), ScheduledStepModel(alone, (8, 32))
    assert scheduled.seconds(shape) == pytest.approx(plain.seconds(shape), rel=1e-12)
    shared = PrefillShareStepModel(alone, (8, 32), prefill_ranks=2)
    sharing = ScheduledStepModel(alone, (8, 32), prefill_ranks=2)
    free = batch(contexts, prefills)
    assert sharing.seconds(free) == pytest.approx(shared.seconds(free), rel=1e-12)


@given(CONTEXTS, PREFILLS, st.integers(0, 40), st.integers(0, 90), st.integers(1, 4))
def test_parts_share_padding_and_the_group(contexts, prefills, padding, others, parts):
    shape = batch(contexts, prefills)
    own = max(shape.tokens + padding, 1)
    shape = replace(shape, padded_tokens=own, group_tokens=own + others)
    found = padded_parts(shape, sub_batches(shape, parts))
    assert sum(part.padded_tokens for part in found) == own
    assert sum(part.group_tokens for part in found) == own + others
    assert all(part.padded_tokens >= part.tokens for part in found)


@given(CONTEXTS, PREFILLS, st.floats(250, 700))
@settings(deadline=None, max_examples=20)
def test_a_power_limit_slows_the_default_device_as_without_a_placement(contexts, prefills, watts):
    h100, shape = load_device("h100_sxm"), batch(contexts, prefills)
    alone = Placement.tensor_parallel(graph(), h100)
    power = replace(accelerator_power(h100), limit_watts=watts)
    plain = CappedStepModel(alone, power=power)
    capped = CappedScheduledStepModel(alone, power=power)
    assert capped.seconds(shape) == pytest.approx(plain.seconds(shape), rel=1e-12)
    rows = capped.cost_breakdown(shape)
    assert math.fsum(row.seconds for row in rows) == pytest.approx(plain.seconds(shape))
    assert capped.seconds(shape) >= ScheduledStepModel(alone).seconds(shape) * (1 - 1e-12)
