"""PIM attention against closed forms of its DRAM timing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import AttentionWork, GemmWork
from servesim.hardware.contract import check_device
from servesim.hardware.load import load_device
from servesim.hardware.pim.array import PimArray
from servesim.hardware.pim.dram import STANDARDS
from servesim.hardware.roofline import RooflineCost

ARRAY = PimArray("HBM2", channels=64, units=8, unit_flops=9.6e9)


def attention(keys, heads=8, kv_heads=8):
    return AttentionWork((), len(keys), sum(keys), max(keys), heads, kv_heads, 128, 128)


def test_a_bank_reads_a_row_by_its_timing():
    hbm = STANDARDS["HBM2"]
    # 14 ns to open, 32 bursts of 32 B every 3.33 ns, 14 ns to close: 1 KiB in 134.7 ns.
    assert hbm.page_seconds == pytest.approx(134.667e-9, rel=1e-5)
    assert hbm.bank_bandwidth == pytest.approx(7.604e9, rel=1e-3)
    assert hbm.read_seconds(np.array([1057.0]))[0] == pytest.approx(
        hbm.page_seconds + 28e-9 + 2 * 4 / 1.2e9
    )
    # Lee et al.: 4 x 1.23 TB/s while rows are open; 79 % of it with rows opened and closed.
    open_rows = ARRAY.channels * ARRAY.units * hbm.burst_bytes / hbm.t_ccd
    assert open_rows == pytest.approx(4 * 1.2288e12, rel=1e-3)
    assert ARRAY.bandwidth / open_rows == pytest.approx(0.792, rel=1e-3)


def test_no_bank_streams_faster_than_its_columns():
    for dram in STANDARDS.values():
        assert dram.bank_bandwidth < dram.burst_bytes / dram.t_ccd
        assert dram.read_seconds(np.array([1e3 * dram.page_bytes]))[0] == pytest.approx(
            1000 * dram.page_seconds
        )
        # The pins carry what one bank group gives, or more by interleaving groups.
        assert dram.pin_bandwidth >= dram.burst_bytes / dram.t_ccd * 0.99


def test_balanced_attention_runs_at_the_arrays_bandwidth():
    # 64 requests of 8 heads over 64 channels: 8 heads each; 4096 keys are 512 in each unit.
    keys = [4096] * 64
    work = attention(keys)
    seconds = ARRAY.channel_seconds(work, keys)
    assert max(seconds) == min(seconds)
    kv_bytes = sum(keys) * work.kv_bytes_per_token
    assert max(seconds) == pytest.approx(kv_bytes / ARRAY.bandwidth)


@given(st.lists(st.integers(1, 8000), min_size=1, max_size=100), st.sampled_from([1, 4]))
def test_imbalance_only_costs(keys, group):
    work = attention(keys, heads=8 * group)
    seconds = ARRAY.channel_seconds(work, keys)
    bound = sum(keys) * work.kv_bytes_per_token / ARRAY.bandwidth
    assert max(seconds) >= bound * (1 - 1e-9)
    assert max(seconds) >= work.flops / (64 * 8 * 9.6e9) * (1 - 1e-9)


def test_one_long_context_holds_up_its_channels():
    keys = [100] * 63 + [50_000]
    even = [sum(keys) // 64] * 64
    uneven, flat = (max(ARRAY.channel_seconds(attention(k), k)) for k in (keys, even))
    assert uneven > 6 * flat


def test_queries_that_share_keys_are_limited_by_arithmetic():
    keys = [4096] * 64
    work = attention(keys, heads=64)
    seconds = max(ARRAY.channel_seconds(work, keys))
    assert seconds == pytest.approx(work.flops / (64 * 8 * 9.6e9))


def test_the_device_attends_in_its_banks_and_keeps_the_contract():
    device = load_device("hbm_pim")
    check_device(device)
    keys = [4096] * 64
    work = attention(keys)
    cost = device.cost_model.cost(work)
    pins = (work.bytes_read - sum(keys) * 4096 + work.bytes_written) / (64 * 19.2e9)
    expected = 1e-6 + sum(keys) * 4096 / ARRAY.bandwidth + pins
    assert cost.seconds == pytest.approx(expected)
    gemm = GemmWork(8, 4096, 4096)
    assert device.cost_model.cost(gemm) == RooflineCost(device).cost(gemm)
    mixed = replace(work, prefills=((100, 0),))
    assert device.cost_model.cost(mixed).seconds > cost.seconds
    assert math.isfinite(device.cost_model.cost(mixed).seconds)


def test_bad_arrays_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'HBM2'"):
        PimArray("HBM", 1, 1, 1.0)
    with pytest.raises(InputError, match="17 in a channel of 16 HBM2 banks"):
        PimArray("HBM2", 1, 17, 1.0)
    with pytest.raises(InputError, match="channels must be positive"):
        PimArray("HBM2", 0, 1, 1.0)
