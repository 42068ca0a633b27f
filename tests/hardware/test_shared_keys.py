"""Keys that decodes share: read from memory once, from the cache ever after."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servesim.graph.batch import BatchShape
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.context import SharedAttention
from servesim.graph.work import AttentionWork, GemmWork
from servesim.hardware.cost import Source
from servesim.hardware.device import Device, Efficiency, MemoryTier
from servesim.hardware.load import load_device
from servesim.hardware.roofline import RooflineCost
from servesim.hardware.shared_keys import near_bytes, near_keys, with_near_keys

#: A token's keys and values: 2 heads of 16 elements of 2 bytes, twice: 128 bytes.
APART = AttentionWork((), 10, 10_000, 1000, 4, 2, 16, 16)
#: 800 tokens that all ten have, 102,400 bytes.
SHARED = replace(APART, shared_keys=800, repeated_keys=9 * 800)
MEMORY, CACHE = MemoryTier("memory", 1e9, 1e11), MemoryTier("cache", 102_400, 4e11)
SHEET = """
kind = "cpu"
peak_flops = {bf16 = 1e13}
memory = {name = "memory", capacity_bytes = 1e9, bandwidth = 1e11}
"""
SUMS = """
[measured.attention]
"bf16 4/2 16/16" = {call = 1e-5, decode_keys = 1e-8, repeated_keys = 2e-9}
"any bf16" = {call = 1e-5, decode_bytes = 1e-10, repeated_bytes = 2e-11}
"""


def device(cache):
    exact = Efficiency(1.0, 1.0, 0.0)
    return Device("toy", "gpu", {"bf16": 1e15}, MEMORY, cache=cache, efficiency=exact)


def loaded(tmp_path, more):
    path = tmp_path / "toy.toml"
    path.write_text(SHEET + more)
    return load_device(str(path)).cost_model


def test_a_cache_delivers_what_it_holds():
    assert near_keys(APART, 1e9) == 0.0
    assert near_keys(SHARED, 102_400) == 7200
    assert near_keys(SHARED, 51_200) == 1800  # half of it is there: a quarter is found
    assert near_bytes(SHARED, CACHE) == 7200 * 128
    assert near_bytes(SHARED, None) == near_bytes(GemmWork(1, 2, 3), CACHE) == 0.0
    assert with_near_keys(SHARED, 51_200).repeated_keys == 1800


def test_attention_to_all_tokens_shares_what_its_batch_shares():
    batch = BatchShape((), 10, 9_990, 999, shared_context=800, repeated_context=7200)
    whole = Attention(4, 2, 16, 16).work(batch, "")
    assert (whole.shared_keys, whole.repeated_keys) == (800, 7200)
    ranks = SharedAttention(4, 2, 16, 16, phase="decode", context_ranks=4).work(batch, "")
    assert (ranks.shared_keys, ranks.repeated_keys) == (200, 1800)
    for other in (Attention(4, 2, 16, 16, window=2000), Attention(4, 2, 16, 16, phase="prefill")):
        assert other.work(batch, "").repeated_keys == 0


def test_a_roofline_reads_again_at_the_bandwidth_of_the_cache():
    apart, shared = (RooflineCost(device(CACHE)).cost(work).seconds for work in (APART, SHARED))
    # 7200 of 10,000 tokens of 128 bytes, at 400 instead of 100 GB/s.
    assert apart - shared == pytest.approx(7200 * 128 * (1 / 1e11 - 1 / 4e11))
    assert RooflineCost(device(None)).cost(SHARED).seconds == apart


def test_keys_read_again_have_a_measured_price(tmp_path):
    cache = 'cache = {name = "L3", capacity_bytes = 102400, bandwidth = 4e11}'
    costs = loaded(tmp_path, cache + SUMS)
    assert costs.cost(APART).seconds == pytest.approx(1e-5 + 10_000e-8)
    found = costs.cost(SHARED)
    assert found.seconds == pytest.approx(1e-5 + 2800e-8 + 7200 * 2e-9)
    assert found.source is Source.MEASURED
    twice = replace(SHARED, shared_keys=1600)  # as much again: a quarter is found
    assert costs.cost(twice).seconds == pytest.approx(1e-5 + 8200e-8 + 1800 * 2e-9)
    other = replace(SHARED, heads=2)
    assert costs.cost(other).seconds == pytest.approx(1e-5 + 2800 * 128e-10 + 7200 * 128 * 2e-11)


def test_a_device_without_that_price_reads_as_ever(tmp_path):
    cache = 'cache = {name = "L3", capacity_bytes = 102400, bandwidth = 4e11}'
    sums = SUMS.replace(", repeated_keys = 2e-9", "").replace(", repeated_bytes = 2e-11", "")
    for costs in (loaded(tmp_path, cache + sums), loaded(tmp_path, SUMS)):
        assert costs.cost(SHARED).seconds == costs.cost(APART).seconds


def test_what_forms_say_of_shared_keys_nobody_measured():
    costs = load_device("h100_sxm").cost_model
    apart = AttentionWork((), 64, 64 * 4096, 4096, 32, 8, 128, 128)
    shared = replace(apart, shared_keys=2048, repeated_keys=63 * 2048)
    assert costs.cost(apart).source is Source.CALIBRATED
    assert costs.cost(shared).source is Source.ANALYTICAL
    assert costs.cost(shared).seconds < 0.9 * costs.cost(apart).seconds


@pytest.mark.parametrize("name", ["h100_sxm", "a100_sxm", "rtx_pro_6000", "tpu_v5e", "xeon_8480"])
@settings(deadline=None)
@given(
    decodes=st.integers(2, 300),
    keys=st.integers(2, 100_000),
    part=st.floats(0.0, 1.0),
    latent=st.booleans(),
    prefill=st.booleans(),
)
def test_sharing_never_costs_more(name, decodes, keys, part, latent, prefill):
    costs = load_device(name).cost_model
    shape = (32, 1, 576, 512) if latent else (32, 8, 128, 128)
    prefills = ((256, 0),) if prefill else ()
    apart = AttentionWork(prefills, decodes, decodes * keys, keys, *shape, latent=latent)
    shared = int(part * keys)
    alike = replace(apart, shared_keys=shared, repeated_keys=(decodes - 1) * shared)
    assert 0.0 < costs.cost(alike).seconds <= costs.cost(apart).seconds * (1 + 1e-12)
