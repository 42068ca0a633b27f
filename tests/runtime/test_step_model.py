"""A compiled step is the sum over its operators, whatever the way it is asked."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.collective import Collective
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.norm import Norm
from servesim.hardware.cost import Cost, Source
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.link import Link
from servesim.hardware.placement import Placement
from servesim.hardware.topology import Topology
from servesim.runtime.step_model import CompiledStepModel

WIRE = Link("wire", bandwidth=1e9, latency=1e-6)
GPU = Device("gpu", "gpu", {"bf16": 1e14}, MemoryTier("HBM", 1e11, 1e12), scale_up=WIRE)


def graph(window=None, ranks=2, layers=(2, 1)):
    """Two kinds of layer that differ in their window, and a head."""

    def ops(attention):
        return (
            Op("layernorm", Norm(512, addends=1, weights=512)),
            Op("qkv_proj", Gemm(768, 512)),
            Op("attention", attention),
            Op("o_proj", Gemm(512, 512)),
            Op("sum", Collective("all_reduce", 512, ranks)),
            Op("layernorm.2", Norm(512, addends=1, weights=512), label="layernorm"),
        )

    full, narrow = Attention(8, 2, 64, 64), Attention(8, 2, 64, 64, window=window)
    a, b = layers
    blocks = (
        Block("full", ops(full), tuple(range(a))),
        Block("narrow", ops(narrow), tuple(range(a, a + b))),
        Block("head", (Op("lm_head", LmHead(1000, 512)),)),
    )
    return OpGraph("toy", blocks, (), 0, 0, 1e6, 512, 1000, 4096, tensor_parallel_size=ranks)


def model(**options):
    return CompiledStepModel.compile(Placement.tensor_parallel(graph(**options), GPU))


def one_by_one(placement, batch):
    """Every operator of every layer, costed on its own."""
    total = 0.0
    for op, count in placement.graph.weighted_ops():
        for _ in range(count):
            if op.runs(batch):
                total += placement.cost("gpu", op.work(batch)).seconds
    return total


PREFILLS = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 900)), max_size=4)
CONTEXTS = st.lists(st.integers(1, 2000), max_size=20)


@given(PREFILLS, CONTEXTS, st.sampled_from([None, 100]))
def test_a_step_is_the_sum_of_its_operators(prefills, contexts, window):
    placement = Placement.tensor_parallel(graph(window), GPU)
    steps = CompiledStepModel.compile(placement)
    batch = BatchShape(
        tuple(prefills),
        len(contexts),
        sum(contexts),
        max(contexts, default=0),
        np.asarray(contexts, dtype=np.int64),
    )
    expected = one_by_one(placement, batch)
    assert steps.seconds(batch) == pytest.approx(expected, rel=1e-12)
    rows = steps.cost_breakdown(batch)
    assert math.fsum(r.seconds for r in rows) == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 64), st.integers(1, 500), st.integers(0, 500))
def test_decodes_cost_the_same_either_way(n, mean, above):
    steps = model()
    batch = BatchShape((), n, n * mean, mean + above)
    fast = steps.decode_seconds(n, n * mean, mean + above)
    assert fast == pytest.approx(steps.seconds(batch), rel=1e-12)


def test_an_empty_step_takes_no_time():
    steps = model()
    assert steps.seconds(BatchShape()) == 0
    assert steps.decode_seconds(0, 0, 0) == 0
    assert steps.cost_breakdown(BatchShape()) == ()


def test_windows_need_contexts():
    steps = model(window=100)
    assert steps.needs_contexts
    assert not model().needs_contexts
    short = steps.decode_seconds(4, 4 * 50, 60)
    assert short == pytest.approx(model().decode_seconds(4, 4 * 50, 60))
    with pytest.raises(ValueError, match="contexts"):
        steps.decode_seconds(4, 4 * 500, 600)


def test_equal_operators_are_costed_once_however_many_layers():
    asked = []

    class Counting:
        def cost(self, work):
            asked.append(work.family)
            return Cost(1e-6, Source.MEASURED)

    def steps(layers):
        placement = Placement.tensor_parallel(graph(ranks=1, layers=layers), GPU, Counting())
        return CompiledStepModel.compile(placement)

    few, many = steps((2, 1)), steps((200, 100))
    small = few.decode_seconds(8, 800, 100)
    count = len(asked)
    # 300 layers of six operators, one of them a collective of a single rank, and the head.
    assert many.decode_seconds(8, 800, 100) == pytest.approx((300 * 5 + 1) * 1e-6)
    assert small == pytest.approx((3 * 5 + 1) * 1e-6)
    assert len(asked) == 2 * count
    many.decode_seconds(8, 808, 101)
    assert asked[2 * count :] == ["attention"]


def test_breakdown_names_operators_and_sources():
    rows = {row.label: row for row in model().cost_breakdown(BatchShape((), 8, 800, 100))}
    assert rows["layernorm"].count == 6
    assert rows["attention"].count == 3
    assert rows["lm_head"].count == 1
    assert {row.device for row in rows.values()} == {"gpu"}


SOURCES = {
    "memory": Source.MEASURED,
    "gemm": Source.CALIBRATED,
    "attention": Source.EXTRAPOLATED,
}


class Mixed:
    """Norms measured, GEMMs calibrated, attention extrapolated: a second each."""

    def cost(self, work):
        return Cost(1.0, SOURCES[work.family])


def test_seconds_by_source_of_a_step_and_of_a_run():
    placement = Placement.tensor_parallel(graph(ranks=1), GPU, Mixed())
    steps = CompiledStepModel.compile(placement)
    batch = BatchShape(((5, 0),), 8, 800, 100)
    # Three layers of two norms, two GEMMs and attention, and the head.
    seconds = Counter()
    for row in steps.cost_breakdown(batch):
        seconds[row.source] += row.seconds
    assert seconds == {Source.MEASURED: 6, Source.CALIBRATED: 7, Source.EXTRAPOLATED: 3}
    total = steps.seconds(batch) + steps.decode_seconds(3, 30, 10) + steps.decode_seconds(3, 33, 11)
    spent = steps.source_seconds()
    assert spent[Source.EXTRAPOLATED] == pytest.approx(9)
    assert sum(spent.values()) == pytest.approx(total)


def test_steps_are_padded_to_captured_sizes():
    placement = Placement.tensor_parallel(graph(ranks=1), GPU)
    plain = CompiledStepModel.compile(placement)
    padded = CompiledStepModel.compile(placement, capture_sizes=(64, 512))
    others = {"attention", "lm_head"}

    def tokens_only(steps, n):
        rows = steps.cost_breakdown(BatchShape((), n, n, 1))
        return sum(row.seconds for row in rows if row.label not in others)

    assert tokens_only(padded, 100) == pytest.approx(tokens_only(plain, 512))
    assert tokens_only(padded, 513) == pytest.approx(tokens_only(plain, 513))
    extra = tokens_only(plain, 512) - tokens_only(plain, 100)
    assert padded.decode_seconds(100, 100, 1) == pytest.approx(
        plain.decode_seconds(100, 100, 1) + extra
    )


@dataclass(frozen=True)
class Bare:
    """A microsecond for every kernel, without the gap to the next one."""

    kernels_alone: bool = True

    def cost(self, work):
        return Cost(1e-6, Source.MEASURED)


def test_gaps_between_kernels_are_added_where_costs_leave_them_out():
    placement = Placement.tensor_parallel(graph(), GPU, Bare(), Bare())
    step = CompiledStepModel.compile(placement, capture_sizes=(8,))
    runs = 3 * 6 + 1  # three layers of six operators and the head
    kernels = runs - 3  # an all-reduce in each layer is no kernel of the table
    assert step.decode_seconds(8, 80, 10) == pytest.approx(runs * 1e-6 + kernels * 0.5e-6)
    assert step.decode_seconds(9, 90, 10) == pytest.approx(runs * 1e-6 + kernels * 0.9e-6)
    batch = BatchShape(((100, 0),))
    assert step.seconds(batch) == pytest.approx(runs * 1e-6 + kernels * 0.9e-6)
    assert sum(row.seconds for row in step.cost_breakdown(batch)) == pytest.approx(
        step.seconds(batch)
    )
    assert step.source_seconds()[Source.ANALYTICAL] > 0
    whole = Placement.tensor_parallel(graph(), GPU, Bare(kernels_alone=False), Bare())
    assert CompiledStepModel.compile(whole).seconds(batch) == pytest.approx(runs * 1e-6)


def test_transfers_between_devices_are_part_of_the_step():
    whole = graph(ranks=1)
    where = {("full", "attention"): "pim", ("narrow", "attention"): "pim"}
    topology = Topology.fully_connected(("gpu", "pim"), WIRE)
    split = Placement(whole, {"gpu": GPU, "pim": GPU}, "gpu", where, topology)
    steps = CompiledStepModel.compile(split)
    batch = BatchShape((), 8, 800, 100)
    moved = [r for r in steps.cost_breakdown(batch) if r.label == "transfer"]
    assert sum(r.count for r in moved) == 6
    together = CompiledStepModel.compile(Placement.tensor_parallel(whole, GPU)).seconds(batch)
    expected = together + sum(r.seconds for r in moved)
    assert steps.seconds(batch) == pytest.approx(expected, rel=1e-12)
    assert steps.decode_seconds(8, 800, 100) == pytest.approx(expected, rel=1e-12)
