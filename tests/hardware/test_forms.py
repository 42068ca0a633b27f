"""Forms beside attention: limits worked out by hand, and how they must grow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.graph.work import GemmWork, MemoryWork, MoeWork, RecurrentWork
from servesim.hardware.forms.gemm import GemmForm
from servesim.hardware.forms.machine import Machine, blended_max, waves
from servesim.hardware.forms.memory import MemoryForm
from servesim.hardware.forms.moe import MoeForm
from servesim.hardware.forms.recurrent import RecurrentForm

MACHINE = Machine(flops=100e12, bandwidth=1e12, cache_bytes=1e7, cores=100)
GEMM = GemmForm(
    launch=2e-6,
    memory=0.8,
    compute=0.8,
    tile=1e-7,
    split=1e-6,
    reduce=4.0,
    smoothing=0.5,
)


def test_waves_are_whole_without_smoothing_and_proportional_with_it() -> None:
    assert waves(2.1, 0.0) == 3.0
    assert waves(2.1, 1.0) == pytest.approx(2.1)
    assert waves(0.3, 0.0) == 1.0


@given(a=st.floats(1e-9, 1e3), b=st.floats(1e-9, 1e3), s=st.floats(1.0, 10.0))
def test_a_blend_lies_between_the_larger_and_the_sum(a: float, b: float, s: float) -> None:
    blend = blended_max(a, b, s)
    assert max(a, b) <= blend <= (a + b) * (1 + 1e-9)


def test_a_product_with_one_row_streams_its_weights() -> None:
    work = GemmWork(1, 65536, 8192)  # 1.07 GB of weights at 0.8 TB/s
    assert GEMM.seconds(work, MACHINE) == pytest.approx(work.weight_bytes / 0.8e12, rel=0.01)


def test_a_large_product_runs_at_its_share_of_peak() -> None:
    work = GemmWork(12800, 12800, 12800)
    assert GEMM.seconds(work, MACHINE) == pytest.approx(work.flops / 80e12, rel=0.03)


def test_few_look_ups_wait_for_each_other() -> None:
    form = MemoryForm(
        launch=3e-6, row=0.0, traffic=1.0, cache=4.0, held=0.5, memory=0.8, serial=2e-7
    )
    one, sixteen, more = (
        form.seconds(MemoryWork("embedding", n, n, n), MACHINE) for n in (1, 16, 17)
    )
    assert (one, sixteen) == pytest.approx((3.2e-6, 6.2e-6))
    assert more == pytest.approx(3e-6, rel=1e-3)


def test_weights_in_cache_are_faster() -> None:
    work = GemmWork(1, 1024, 1024)
    assert GEMM.seconds(work, MACHINE, resident=1.0) < GEMM.seconds(work, MACHINE)


@given(
    m=st.integers(1, 4096),
    n=st.integers(1, 8192),
    k=st.integers(1, 8192),
    grow=st.sampled_from(["m", "n", "k"]),
)
def test_a_larger_product_takes_no_less_time(m: int, n: int, k: int, grow: str) -> None:
    work = GemmWork(m, n, k)
    larger = replace(work, **{grow: 4 * getattr(work, grow)})
    assert GEMM.seconds(larger, MACHINE) >= GEMM.seconds(work, MACHINE)


def test_experts_stream_what_is_touched_and_skip_the_rest() -> None:
    form = MoeForm(
        launch=2e-5,
        pair=1e-9,
        memory=0.8,
        compute=0.5,
        feed=20.0,
        tile=1e-8,
        sharpness=6.0,
        tiling="triton",
    )
    work = MoeWork(8, 64, 60.0, 128, 8, 4096, 1536)
    streamed = 60 * 3 * 4096 * 1536 * 2 / 0.8e12
    assert form.seconds(work, MACHINE) == pytest.approx(2e-5 + streamed, rel=0.05)
    assert form.seconds(replace(work, pairs=0.0, touched=0.0), MACHINE) == 0.0


SCAN = RecurrentForm(
    launch=3e-6,
    scan_launch=2e-6,
    token=1e-12,
    tile=1e-9,
    resident_tiles=4.0,
    compute=0.5,
    scan_traffic=1.0,
    traffic=1.0,
    memory=0.8,
    cache=4.0,
    held=0.5,
    sharpness=6.0,
    chunk=8.0,
    inner=2e-7,
)


def test_recurrent_decodes_move_their_states_twice() -> None:
    form = replace(SCAN, held=0.0)
    work = RecurrentWork("gated_delta", 0, 0, 128, 32, 128, 128, 1e6, 0.0, 2e6)
    assert form.seconds(work, MACHINE) == pytest.approx(3e-6 + 128 * 4e6 / 0.8e12, rel=0.01)


def test_a_scan_pays_for_the_chunk_it_fills() -> None:
    def scan(tokens: int) -> RecurrentWork:
        return RecurrentWork("short_conv", tokens, 1, 0, 1024, 128, 128, 8e3, 1.0, 1.0)

    one, full, three = (SCAN.seconds(scan(n), MACHINE) for n in (1, 8, 24))
    assert one == pytest.approx(2.2e-6, rel=0.02)
    assert full == pytest.approx(3.6e-6, rel=0.02)
    assert three == pytest.approx(full, rel=0.02)


def test_what_a_scan_moves_falls_out_of_the_cache_as_sharply_as_its_spill_says() -> None:
    def streamed(spill: float, share: float) -> float:
        moved = share * 0.5 * MACHINE.cache_bytes
        scan = RecurrentWork("gated_delta", 1000, 1, 0, 1, 128, 128, 0.0, moved / 1000, 0.0)
        fixed = 2e-6 + 8 * 2e-7
        seconds = replace(SCAN, spill=spill).seconds(scan, MACHINE) - fixed
        return seconds * MACHINE.bandwidth / moved

    assert streamed(2.0, 1.0) == pytest.approx(streamed(8.0, 1.0)) == pytest.approx(0.75, rel=0.01)
    for spill in (2.0, 8.0):
        missed = 1.0 - 1.0 / (1.0 + 2.0**spill)
        expected = missed / 0.8 + (1.0 - missed) / 4.0
        assert streamed(spill, 2.0) == pytest.approx(expected, rel=0.01)
