"""Tiles of routed experts: how many rows they have, and how many there are."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import MoeWork
from servesim.hardware.calibrate.fit import fit
from servesim.hardware.calibrate.problems import problem
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.run import with_tuned
from servesim.hardware.forms.machine import Machine
from servesim.hardware.forms.moe import MoeForm
from servesim.hardware.forms.tiling import RAMP, TILINGS, blocks

MACHINE = Machine(flops=100e12, bandwidth=1e12, cache_bytes=0.0, cores=100)
FORM = MoeForm(2e-5, 1e-8, 0.8, 0.5, 20.0, 1e-8, 6.0, tiling="fixed_32", smoothing=1.0)


def work(tokens: int, experts: int = 64, distribution: str = "balanced") -> MoeWork:
    pairs = 8.0 * tokens
    touched = min(pairs, experts)
    return MoeWork(tokens, pairs, touched, experts, 8, 4096, 1024, distribution=distribution)


@pytest.mark.parametrize(
    ("tiling", "tokens", "rows"),
    [
        ("triton", [32, 33, 96, 97, 512, 513], [16, 32, 32, 64, 64, 128]),
        ("triton_block", [64, 65], [16, 64]),
        ("triton_early", [64, 65], [16, 64]),  # up to as many tokens as experts
        ("marlin", [57, 58, 115, 230, 345, 346, 461], [8, 16, 16, 32, 48, 64, 64]),
        ("trtllm_32", [128, 129, 256, 257, 8192], [8, 16, 16, 32, 32]),
        ("trtllm", [1, 128, 129, 256, 1024, 1025, 8192], [8, 8, 16, 16, 64, 128, 128]),
        ("fixed_64", [1, 8192], [64, 64]),
    ],
)
def test_tilings(tiling: str, tokens: list[int], rows: list[int]) -> None:
    chosen = [TILINGS[tiling].shares(work(t))[-1][1].rows for t in tokens]
    assert chosen == rows


@pytest.mark.parametrize("tiling", TILINGS)
def test_one_tile_follows_the_other_gradually(tiling: str) -> None:
    chosen = TILINGS[tiling]
    assert all(b.most >= RAMP * a.most for a, b in itertools.pairwise(chosen.cuts))
    rows = []
    for tokens in range(1, 4096):
        shares = chosen.shares(work(tokens))
        assert sum(share for share, _ in shares) == pytest.approx(1.0)
        assert shares[-1][1] in chosen.near(work(tokens))
        rows.append(sum(share * cut.rows for share, cut in shares))
    assert rows == sorted(rows)
    widest = 64 / math.log(RAMP)  # no two neighbours differ by more rows
    steps = enumerate(itertools.pairwise(rows), 1)
    assert all(after - before <= 1.01 * widest / tokens for tokens, (before, after) in steps)


def test_halfway_between_tiles_half_of_each_counts() -> None:
    marlin = replace(FORM, tiling="triton_block")
    between = work(round(64 * RAMP**0.5))
    share = math.log(between.tokens / 64) / math.log(RAMP)
    both = [
        share * marlin._cut(between, MACHINE, rows, 128, 1.0)
        for share, rows in ((1.0 - share, 16), (share, 64))
    ]
    assert marlin._tiles(between, MACHINE) == pytest.approx(sum(both))


def test_an_unknown_tiling_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="tritan"):
        replace(FORM, tiling="tritan")


def test_a_surface_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(InputError, match="by_tokens must be 15 numbers, not 2"):
        replace(FORM, by_tokens=(1.0, 2.0))


def test_settings_tuned_for_a_size_speed_up_its_tiles_only() -> None:
    tuned = replace(FORM, tuned=0.5, tuned_for="8x1024 64x1024", tiling="fixed_128")
    busy = work(16384)  # 2048 rows an expert: tiles of 128 either way
    plain = replace(tuned, tuned_for="")
    fixed = FORM.launch + 16384 * 8 * FORM.pair * 2 * (4096 + 2 * 1024) / 1024 / 100
    tiles = plain.seconds(busy, MACHINE) - fixed
    assert tuned.seconds(busy, MACHINE) - fixed == pytest.approx(tiles / 2, rel=0.01)
    with pytest.raises(InputError, match="not '8y1024'"):
        replace(FORM, tuned_for="8y1024")
    other = work(16384, experts=32)
    assert tuned.seconds(other, MACHINE) == plain.seconds(other, MACHINE)


def test_tuned_settings_have_tiles_of_what_an_expert_gets() -> None:
    tuned = replace(FORM, tuned_for="64x1024", tiling="fixed_128")
    for tokens, rows in ((32, 16), (256, 32), (512, 64)):
        small = replace(FORM, tiling=f"fixed_{max(rows, 32)}")
        if rows >= 32:
            expected = small.seconds(work(tokens), MACHINE)
            assert tuned.seconds(work(tokens), MACHINE) == pytest.approx(expected)
        assert tuned.seconds(work(tokens), MACHINE) <= small.seconds(work(tokens), MACHINE)


def test_tuned_settings_are_not_lent() -> None:
    tuned = replace(FORM, tuned=0.5, tuned_for="64x1024")
    assert tuned.lent() == replace(tuned, tuned_for="")
    assert tuned.lent().seconds(work(4096), MACHINE) > tuned.seconds(work(4096), MACHINE)


def test_kernels_that_unpack_weights_are_lent_at_the_pace_of_a_core() -> None:
    marlin = replace(FORM, tiling="marlin", compute=0.1)
    assert marlin.lent(3.0).compute == pytest.approx(0.3)
    assert marlin.lent(30.0).compute == 1.0
    assert FORM.lent(3.0) == FORM  # matrix units: a share of peak
    # On a device of a third of the peak and as many cores, tiles take as long.
    slow = replace(MACHINE, flops=MACHINE.flops / 3)
    busy = work(4096)
    assert marlin.lent(3.0).seconds(busy, slow) == pytest.approx(marlin.seconds(busy, MACHINE))


def test_a_fit_tells_what_tuned_settings_save() -> None:
    sizes = "64x512 64x1024"
    true = replace(FORM, pair=1e-9, tuned=0.6, tuned_for=sizes, tiling="triton", smoothing=0.0)
    works = [
        replace(work(2**t), hidden=hidden, intermediate=width)
        for t in range(3, 15)
        for hidden in (1024, 2048, 4096)
        for width in (256, 512, 1024, 2048)
    ]
    rows = [
        Row(w, true.seconds(w, MACHINE), "moe.bf16", f"{w.hidden}x{w.intermediate}") for w in works
    ]
    asked = with_tuned(problem("moe.bf16", lambda _: MACHINE), sizes)
    found = fit(asked, rows).coefficients
    assert (found["tiling"], found["tuned_for"]) == ("triton", sizes)
    assert found["tuned"] == pytest.approx(0.6, rel=0.1)


def test_a_fit_finds_nothing_that_the_kernels_do_not_have() -> None:
    asked = problem("moe.bf16", lambda _: MACHINE)
    assert {"alone", "expert"} <= set(asked.searched({"tiling": "fixed_64"}))
    assert not {"alone", "spill", "least"} & set(asked.searched({"tiling": "triton"}))
    assert "spill" in asked.searched({"tiling": "triton_early"})


def test_weights_a_benchmark_left_in_the_cache_come_faster() -> None:
    streaming = replace(FORM, feed=1e6, compute=1e3, launch=0.0, pair=0.0, memory=1.0)
    machine = replace(MACHINE, cache_bytes=1e9, cache_bandwidth=5e12)
    few = work(1)
    far, near = (streaming.seconds(few, machine, resident) for resident in (0.0, 1.0))
    assert far == pytest.approx(few.touched * few.expert_bytes / 1e12, rel=0.01)
    assert near == pytest.approx(far / 5, rel=0.01)
    assert streaming.seconds(few, replace(machine, cache_bandwidth=0.0), 1.0) == far


def test_a_tile_alone_on_its_core_takes_longer() -> None:
    alone = replace(FORM, alone=3.0, smoothing=0.0)
    few, many = work(1, experts=8), work(4096)
    plain = replace(alone, alone=1.0)
    narrow = replace(few, hidden=128, intermediate=128)
    tiles = plain.seconds(narrow, MACHINE) - plain.launch
    assert alone.seconds(narrow, MACHINE) - plain.launch > 1.5 * tiles
    assert alone.seconds(many, MACHINE) == plain.seconds(many, MACHINE)


def test_inputs_beyond_the_cache_are_loaded_more_slowly() -> None:
    loading = replace(FORM, compute=1e3, spill=2.0)
    machine = replace(MACHINE, cache_bytes=2.0 * 4096 * 4096)  # inputs of 4096 tokens
    plain = replace(loading, spill=0.0)
    fits, twice = work(4096), work(8192)
    assert loading.seconds(fits, machine) == plain.seconds(fits, machine)
    # Half of the inputs are beyond: 32 rows of a tile count twice, 128 columns once.
    ratio = loading.seconds(twice, machine) / plain.seconds(twice, machine)
    assert ratio == pytest.approx((2 * 32 + 128) / (32 + 128), rel=0.02)


def test_balanced_loads_fill_whole_tiles() -> None:
    assert [blocks(load, 64, "balanced") for load in (1.0, 64.0, 65.0, 128.0)] == [1, 1, 2, 2]
    assert blocks(64.25, 64, "balanced") == pytest.approx(1.25)  # every fourth expert has 65


@pytest.mark.parametrize("load", [3.0, 15.5, 16.0, 20.0, 100.0, 1000.0])
def test_random_loads_need_the_tiles_that_draws_need(load: float) -> None:
    drawn = np.random.default_rng(0).poisson(load, 20000)
    measured = float(np.ceil(drawn[drawn > 0] / 16).mean())
    assert blocks(load, 16, "uniform") == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("full", [0.1, 0.5, 1.0, 2.0, 10.0])
def test_heavy_loads_need_most_of_a_tile_more(full: float) -> None:
    # Loads over three orders of magnitude, as those of a power law of exponent one.
    loads = 10.0 ** np.random.default_rng(0).uniform(-2.0, 1.0, 20000)
    loads *= full / loads.mean()
    assert blocks(full * 64, 64, "power_law_1.01") == pytest.approx(
        float(np.ceil(loads).mean()), rel=0.1
    )


@given(load=st.floats(1.0, 1e4), rows=st.sampled_from([8, 16, 64, 128]))
def test_tiles_hold_every_pair(load: float, rows: int) -> None:
    for distribution in ("balanced", "uniform", "power_law_1.2"):
        assert blocks(load, rows, distribution) >= max(1.0, load / rows) - 1e-6


def test_rows_of_other_ranks_experts_cost_what_zeros_take() -> None:
    half = replace(work(1024), experts=32, pairs=4096.0, touched=32.0)
    knowing, silent = (
        replace(FORM, tiling=tiling, store=1e-7, pair=0.0) for tiling in ("triton", "trtllm")
    )
    whole = replace(half, top_k=4)  # as many pairs, all of them here
    # 128 pairs an expert: a tile of 128 rows, for each of 32 experts elsewhere one of zeros.
    zeros = 32 * 128 * (2 * 1024 + 4096) / 128 * 1e-7 / 100
    extra = knowing.seconds(half, MACHINE) - knowing.seconds(whole, MACHINE)
    assert extra == pytest.approx(zeros, rel=0.01)
    eight = replace(half, tokens=2048, top_k=4)  # tiles of 128 rows by the same rule
    assert silent.seconds(half, MACHINE) == silent.seconds(eight, MACHINE)


def test_narrow_tiles_take_longer_with_each_pair() -> None:
    narrow = replace(FORM, tiling="marlin", memory=1e3, feed=1e6, narrow=0.2, crowd=0.1, least=64.0)
    one, three = (narrow.seconds(work(tokens), MACHINE) - 2e-5 for tokens in (8, 24))
    assert three / one == pytest.approx((0.2 + 0.3) / (0.2 + 0.1), rel=0.05)


def test_tiles_of_an_expert_share_what_stripes_load() -> None:
    marlin = replace(FORM, tiling="marlin", memory=1e3, feed=1e6, pair=0.0, tile=0.0, least=64.0)
    one, two = (
        marlin._cut(replace(work(64), pairs=load * 64.0), MACHINE, 16, 128, 1.0)
        for load in (16.0, 32.0)
    )
    assert two / one == pytest.approx(1.0 + 16 / 64)
