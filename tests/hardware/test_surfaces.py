"""Surfaces over sizes, and what kernels pay for tiles that are not full."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.graph.work import GemmWork
from servesim.hardware.forms.gemm import COLUMNS, ROUNDS, GemmForm
from servesim.hardware.forms.machine import Machine
from servesim.hardware.forms.surface import Knots

MACHINE = Machine(flops=100e12, bandwidth=1e12, cache_bytes=1e7, cores=100)
GEMM = GemmForm(2e-6, 0.8, 0.8, 1e-7, 0.5, 1e-6, 4.0)


def test_rows_missing_in_the_last_tile_cost_as_many_times_a_row() -> None:
    form = replace(GEMM, ragged=2.0)
    aligned, ragged = (form.seconds(GemmWork(m, 12800, 12800), MACHINE) for m in (2048, 2049))
    as_if = form.seconds(GemmWork(2304 + 256, 12800, 12800), MACHINE)  # 255 missing, twice
    assert ragged == pytest.approx(as_if, rel=0.02)
    assert ragged > 1.2 * aligned


def test_libraries_that_choose_by_rows_have_one_tile_beyond_them() -> None:
    any_tile = replace(GEMM, split=0.0)
    form = replace(any_tile, tall=256.0)
    few, many = GemmWork(256, 512, 8192), GemmWork(512, 512, 8192)
    assert form.seconds(few, MACHINE) == any_tile.seconds(few, MACHINE)
    # One round of 16 tiles of 128 x 128 on as many of 100 cores of 0.8 TFLOP/s: nothing is split.
    tiles = 2 * 128 * 128 * 8192 / 0.8e12
    assert form.seconds(many, MACHINE) == pytest.approx(2e-6 + 1e-7 + tiles, rel=0.01)
    assert (
        GEMM.seconds(many, MACHINE) < any_tile.seconds(many, MACHINE) < form.seconds(many, MACHINE)
    )


def test_surfaces_scale_times_but_never_beat_memory() -> None:
    work = GemmWork(64, 8192, 8192)
    columns, rounds = (0.1,) * COLUMNS.size, (-0.3,) * ROUNDS.size
    scaled = replace(GEMM, by_columns=columns, by_rounds=rounds)
    assert scaled.seconds(work, MACHINE) == pytest.approx(
        GEMM.seconds(work, MACHINE) * math.exp(-0.2)
    )
    never = replace(GEMM, by_columns=(-9.0,) * COLUMNS.size, by_rounds=rounds)
    beyond_cache = work.weight_bytes - MACHINE.cache_bytes
    assert never.seconds(work, MACHINE) == pytest.approx(beyond_cache / MACHINE.bandwidth)


@given(first=st.floats(0.1, 1e6), second=st.floats(0.1, 1e6))
def test_surfaces_are_flat_where_their_values_are_and_meet_them_at_knots(
    first: float, second: float
) -> None:
    knots = Knots((0, 2, 5), (1, 3))
    assert sum(w for _, w in knots.weights(first, second)) == pytest.approx(1.0)
    values = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert knots.at(values, 4.0, 8.0) == 3.0
    assert knots.at(values, 2.0, 4.0) == pytest.approx(1.5)
    assert 0.0 <= knots.at(values, first, second) <= 5.0
