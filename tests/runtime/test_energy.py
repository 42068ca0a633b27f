"""Energy of runs: hand-computed states, and sums that must agree however they are cut."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import request, run
from test_step_model import GPU, graph

from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.opgraph import Block
from servesim.graph.ops.batched_gemm import BatchedGemm
from servesim.graph.ops.latent_expand import LatentExpand
from servesim.hardware.device import MemoryTier
from servesim.hardware.placement import Placement
from servesim.hardware.power.accelerator import AcceleratorPower
from servesim.hardware.power.server import Cpu, Dram, Ports, ServerPower
from servesim.runtime.energy.account import Powered, engine_energy
from servesim.runtime.energy.capped import CappedStepModel
from servesim.runtime.energy.columns import StepColumns, sums_of
from servesim.runtime.energy.report import energy_report
from servesim.runtime.energy.step_use import StepUse
from servesim.runtime.energy.use import compile_use, use_of
from servesim.runtime.step import LinearStepModel
from servesim.runtime.step_model import CompiledStepModel
from servesim.runtime.steps import StepRecords

#: Idle 10 W, 20 W for 5 s after a step, 100 W while steps run.
PLAIN = AcceleratorPower(10.0, 20.0, 5.0, 100.0, 0.0, 0.0, 400.0)
POWER = AcceleratorPower(50.0, 90.0, 2.0, 200.0, 100.0, 300.0, 350.0)
PLACEMENT = Placement.tensor_parallel(graph(), GPU)


def latent() -> Placement:
    """With operators that read weights once if there are prefills, and others for decodes."""
    ops = (Op("kv_b_proj", LatentExpand(256, 64, 4)), Op("q_absorb", BatchedGemm(4, 64, 32)))
    plain = graph()
    blocks = (*plain.blocks, Block("latent", ops, (3,)))
    return Placement.tensor_parallel(replace(plain, blocks=blocks), GPU)


def two_bursts():
    """A request at 1 s and one at 31 s, each of one prompt token and two output tokens: two steps
    of 1.1 s (see ``SLOW``)."""
    return run([request(0, 1.0, 1, 2), request(1, 31.0, 1, 2)])


def test_states_by_hand() -> None:
    records = two_bursts()
    steps = records.instances[0].steps
    energy = engine_energy(steps, Powered((), {"gpu": PLAIN}, ranks=2), until_s=40.0)
    # Busy 1 to 3.2 s and 31 to 33.2 s; standby to 8.2 s and 38.2 s; two devices.
    assert energy.states["active"] == pytest.approx(2 * 100 * 4.4)
    assert energy.states["standby"] == pytest.approx(2 * 20 * 10)
    assert energy.states["idle"] == pytest.approx(2 * 10 * (1.0 + 22.8 + 1.8))
    assert energy.total == pytest.approx(sum(energy.states.values()))


def test_power_over_time_by_hand() -> None:
    records = two_bursts()
    energy = energy_report(records, [Powered((), {"gpu": PLAIN})], until_s=40.0)
    watts = energy.watts(np.array([0.0, 1.0, 3.2, 8.2, 31.0, 33.2, 40.0]))
    after = (20 * 5.0 + 10 * 1.8) / 6.8
    assert watts == pytest.approx([10, 100, 20, 10, 100, after])


def test_a_hold_that_outlasts_the_gap_never_idles() -> None:
    steps = two_bursts().instances[0].steps
    held = AcceleratorPower(10.0, 20.0, 100.0, 100.0, 0.0, 0.0, 400.0)
    energy = engine_energy(steps, Powered((), {"gpu": held}), until_s=33.2)
    assert energy.states["idle"] == pytest.approx(10 * 1.0)  # before the first step
    assert energy.states["standby"] == pytest.approx(20 * 27.8)


def test_an_engine_that_never_ran_idles() -> None:
    energy = engine_energy(StepRecords(), Powered(compile_use(PLACEMENT), {"gpu": POWER}, 2), 10.0)
    assert energy.states == {"active": 0.0, "standby": 0.0, "idle": 2 * 50.0 * 10.0}
    assert energy.total == pytest.approx(1000.0)
    assert energy.busy_s == 0.0


def test_stages_of_a_pipeline_wait_for_each_other() -> None:
    stages = [Placement(graph(ranks=1), {name: GPU}, name) for name in ("gpu/0", "gpu/1")]
    uses = tuple(use for one in stages for use in compile_use(one))
    records = run([request(0, 0.0, 1, 40)], model=LinearStepModel(per_token_s=1.0))
    powered = Powered(uses, {"gpu/0": PLAIN, "gpu/1": PLAIN})
    energy = engine_energy(records.instances[0].steps, powered, 40.0)
    assert energy.states["active"] + energy.states["standby"] == pytest.approx(energy.total)
    # Steps of a second hold a few hundred microseconds of kernels: nearly all is waiting.
    assert energy.states["standby"] == pytest.approx(2 * 20 * 40, rel=1e-2)
    alone = engine_energy(records.instances[0].steps, Powered(uses, {"gpu/0": PLAIN}), 40.0)
    assert alone.states["active"] == pytest.approx(100 * 40)


def test_the_server_and_the_building() -> None:
    server = ServerPower(
        count=2,
        base_watts=7.0,
        cpu=Cpu(10.0, 60.0, 0.0, 1.0),
        dram=Dram(64e9, 32e9, 4.0),
        storage=Ports(1, 6.0),
        pue=1.5,
    )
    energy = energy_report(two_bursts(), [Powered((), {"gpu": PLAIN})], server, until_s=40.0)
    assert energy.components["base"] == pytest.approx(2 * 7 * 40)
    assert energy.components["cpu"] == pytest.approx(2 * (10 * 40 + 50 * 4.4))
    assert energy.components["dram"] == pytest.approx(2 * 8 * 40)
    assert energy.components["storage"] == pytest.approx(2 * 6 * 40)
    assert energy.total == pytest.approx(1.5 * (energy.total - energy.components["cooling"]))
    # While steps run both hosts' CPUs do, too.
    busy, waiting = energy.watts(np.array([1.0, 3.2])), energy.watts(np.array([9.0, 31.0]))
    assert busy[0] - waiting[0] == pytest.approx(1.5 * (100 - 10 + 2 * 50))


REQUESTS = st.lists(
    st.tuples(st.floats(0, 50), st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=8
)


@settings(max_examples=30, deadline=None)
@given(
    REQUESTS, st.lists(st.floats(0.1, 20.0), min_size=1, max_size=20), st.sampled_from([4, 1000])
)
def test_nothing_is_lost(sizes, widths, rows) -> None:
    """Power over any intervals, families, phases, states and requests add up to the total."""
    arrivals = sorted(arrival for arrival, _, _ in sizes)
    requests = [
        request(i, a, p, o) for i, (a, (_, p, o)) in enumerate(zip(arrivals, sizes, strict=True))
    ]
    records = run(requests, model=CompiledStepModel.compile(PLACEMENT), step_rows=rows)
    powered = Powered(compile_use(PLACEMENT), {"gpu": POWER}, ranks=2)
    energy = energy_report(records, [powered], ServerPower(base_watts=30.0, pue=1.2))
    edges = np.concatenate(([0.0], np.cumsum(widths)))
    edges = np.append(edges[edges < energy.seconds], energy.seconds)
    assert energy.watts(edges) @ np.diff(edges) == pytest.approx(energy.total)
    assert sum(energy.families.values()) == pytest.approx(energy.states["active"])
    phases = energy.prefill_joules + energy.decode_joules
    assert phases == pytest.approx(energy.states["active"])
    assert sum(energy.states.values()) == pytest.approx(energy.components["accelerators"])
    assert energy.request_joules.sum() == pytest.approx(energy.total)
    assert (energy.request_joules > 0).all()


def test_active_power_stays_within_the_limit() -> None:
    records = run([request(i, 0.0, 60, 30) for i in range(8)], model=_model())
    powered = Powered(compile_use(PLACEMENT), {"gpu": POWER})
    energy = engine_energy(records.instances[0].steps, powered, 100.0)
    assert POWER.active_watts * energy.busy_s < energy.states["active"]
    assert energy.states["active"] <= POWER.limit_watts * energy.busy_s * (1 + 1e-9)


BATCHES = st.builds(
    lambda prefills, contexts: BatchShape(
        tuple(prefills), len(contexts), sum(contexts), max(contexts, default=0), np.array(contexts)
    ),
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 900)), max_size=4),
    st.lists(st.integers(1, 2000), max_size=20),
).filter(lambda batch: batch.tokens > 0)


def row_of(batch: BatchShape) -> StepColumns:
    """A single step."""
    shared = float(batch.repeated_context), float(batch.shared_context)
    return StepColumns(*(np.array([value]) for value in (*sums_of(batch), *shared)))


@pytest.mark.parametrize("placement", [PLACEMENT, latent()], ids=["plain", "latent"])
@given(batch=BATCHES)
def test_use_is_that_of_the_operators(placement, batch) -> None:
    memory = compute = link = 0.0
    for op, count in placement.graph.weighted_ops():
        if op.runs(batch):
            more = use_of(op.work(batch), GPU)
            memory, compute, link = (
                old + count * new for old, new in zip((memory, compute, link), more, strict=True)
            )
    uses = compile_use(placement)
    rows = row_of(batch)
    together = sum(one.use(rows) for one in uses)
    assert together[0] == pytest.approx([memory, compute, link], rel=1e-6)
    assert StepUse(uses).of(batch) == pytest.approx((memory, compute), rel=1e-6)


# Of the second cache, the shared keys of a layer are twice as large, and a quarter comes from it.
@pytest.mark.parametrize(("cache_bytes", "near"), [(1e8, 1.0), (400 * 512, 0.25)])
def test_keys_that_a_cache_holds_are_read_from_memory_once(cache_bytes: float, near: float) -> None:
    cached = replace(GPU, cache=MemoryTier("L2", cache_bytes, 4e12))
    uses = compile_use(Placement.tensor_parallel(graph(), cached))
    apart = BatchShape((), 4, 4 * 900, 900)
    alike = replace(apart, shared_context=800, repeated_context=3 * 800)
    saved = StepUse(uses).of(apart)[0] - StepUse(uses).of(alike)[0]
    # Three layers of 2 KV heads: 512 bytes a token, at 1 TB/s.
    assert saved == pytest.approx(near * 3 * 2400 * 512 / 1e12)
    rows = [row_of(batch) for batch in (apart, alike)]
    used = [sum(one.use(row) for one in uses)[0][0] for row in rows]
    assert used[0] - used[1] == pytest.approx(saved)


def test_windows_clip_what_is_read() -> None:
    uses = compile_use(Placement.tensor_parallel(graph(window=100), GPU))
    narrow = StepUse(tuple(one for one in uses if one.window == 100))
    short, long, longer = (BatchShape((), 4, 4 * n, n, np.full(4, n)) for n in (50, 99, 5000))
    assert narrow.of(longer) == pytest.approx(narrow.of(long))
    assert narrow.of(short) < narrow.of(long)


def _model() -> CompiledStepModel:
    return CompiledStepModel.compile(PLACEMENT)


PREFILL = BatchShape(((4000, 0),))
DECODE = BatchShape((), 4, 4 * 900, 900)


ALONE = Placement.tensor_parallel(graph(ranks=1), GPU)


def capped(limit_watts: float) -> CappedStepModel:
    return CappedStepModel.under(
        ALONE, AcceleratorPower(50.0, 90.0, 2.0, 200.0, 100.0, 300.0, limit_watts)
    )


def test_a_step_that_asks_for_more_than_the_limit_takes_longer() -> None:
    full = CompiledStepModel.compile(ALONE).seconds(PREFILL)
    memory, compute = StepUse(compile_use(ALONE)).of(PREFILL)
    asks = 200.0 + (100.0 * memory + 300.0 * compute) / full
    assert capped(asks).seconds(PREFILL) == full
    assert full < capped(0.99 * asks).seconds(PREFILL) < 1.05 * full


@pytest.mark.parametrize("limit", [600.0, 300.0, 210.0, 150.0, 55.0])
@pytest.mark.parametrize("batch", [PREFILL, DECODE])
def test_operators_add_up_to_the_slowed_step(batch, limit: float) -> None:
    model = capped(limit)
    rows = model.cost_breakdown(batch)
    assert math.fsum(row.seconds for row in rows) == pytest.approx(model.seconds(batch))
    full = CompiledStepModel.compile(ALONE).cost_breakdown(batch)
    assert [(row.label, row.count) for row in rows] == [(row.label, row.count) for row in full]


@pytest.mark.parametrize("batch", [PREFILL, DECODE])
def test_a_generous_limit_costs_nothing(batch) -> None:
    assert capped(600.0).seconds(batch) == CompiledStepModel.compile(ALONE).seconds(batch)


def test_a_lower_cap_never_speeds_up_and_hurts_arithmetic_most() -> None:
    limits = (600.0, 300.0, 250.0, 200.0, 150.0, 110.0)
    prefill = [capped(limit).seconds(PREFILL) for limit in limits]
    decode = [capped(limit).seconds(DECODE) for limit in limits]
    assert prefill == sorted(prefill)
    assert decode == sorted(decode)
    assert prefill[-1] / prefill[0] > 1.2
    assert decode[-1] / decode[0] < 1.01


def test_both_ways_of_asking_for_decodes_agree_under_a_cap() -> None:
    for limit in (150.0, 205.0, 600.0):
        model = capped(limit)
        assert model.decode_seconds(4, 4 * 900, 900) == pytest.approx(model.seconds(DECODE))


@pytest.mark.parametrize("more", [{"drafts": 7}, {"padded_tokens": 64}])
def test_a_lower_clock_still_counts_drafts_and_padding(more: dict[str, int]) -> None:
    batch = BatchShape((), 4, 4 * 900, 900, **more)
    full = CompiledStepModel.compile(ALONE).seconds(batch)
    assert capped(201.0).seconds(batch) >= full
