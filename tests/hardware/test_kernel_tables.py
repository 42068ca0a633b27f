"""Kernel latency tables as a cost model: measured inside, the fallback beyond, no jump between."""

from dataclasses import replace
from itertools import pairwise

import pytest

from servesim.errors import InputError
from servesim.graph.work import AttentionWork, GemmWork, MoeWork
from servesim.hardware.cost import Cost, Source
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.tables.kernels import load_kernel_tables
from servesim.hardware.tables.plane import around

DEVICE = Device("d", "gpu", {"bf16": 1e15}, MemoryTier("DRAM", 1e9, 1e12))
GEMM = """gemm_dtype,m,n,k,latency
bfloat16,1,512,512,0.002
bfloat16,101,512,512,0.012
"""
MOE = """moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,\
distribution,latency
bfloat16,1,64,128,2,8,1,1,uniform,0.01
bfloat16,9,64,128,2,8,1,1,uniform,0.05
"""
ATTENTION = "batch_size,isl,num_heads,num_key_value_heads,head_dim,kv_cache_dtype,step,latency\n"
#: The longest context was measured of few decodes only, as memories allow.
DECODE = ATTENTION + "".join(
    f"{n},1,4,2,64,bfloat16,{kv},{0.001 * n + 1e-6 * kv}\n"
    for n in (1, 16)
    for kv in (16, 128, 1024)
    if n * kv <= 2048
)
PREFILL = ATTENTION + "".join(
    f"{count},{n},4,2,64,bfloat16,0,{0.001 * n * count**0.5}\n"
    for n in (16, 64)
    for count in (1, 4)
)


class PerRow:
    """10 µs and 1 µs a row or token."""

    def cost(self, work):
        rows = work.m if isinstance(work, GemmWork) else getattr(work, "tokens", 7)
        return Cost(10e-6 + 1e-6 * rows, Source.CALIBRATED)


@pytest.fixture
def table(tmp_path):
    files = {
        "gemm_perf": GEMM,
        "moe_perf": MOE,
        "generation_attention_perf": DECODE,
        "context_attention_perf": PREFILL,
    }
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return load_kernel_tables(tmp_path, PerRow())


def test_measured_where_the_shape_was(table):
    assert table.cost(GemmWork(51, 512, 512)) == Cost(pytest.approx(7e-6), Source.MEASURED)
    moe = MoeWork(5, 10.0, 6.0, 8, 2, 64, 128, distribution="uniform")
    assert table.cost(moe) == Cost(pytest.approx(30e-6), Source.MEASURED)
    decode = AttentionWork((), 16, 16 * 129, 129, 4, 2, 64, 64)
    assert table.cost(decode) == Cost(pytest.approx(16.128e-6), Source.MEASURED)


def test_counts_beyond_a_last_one_of_none():
    assert around([0], 1) == [(0, 0.0), (1, 1.0)]
    assert around([0], 5) == [(4, 0.75), (8, 0.25)]
    assert around([3], 5) == [(3, pytest.approx(1 / 3)), (6, pytest.approx(2 / 3))]


def test_decodes_measured_without_a_context_only(tmp_path):
    head, first = DECODE.splitlines()[:2]
    step = head.split(",").index("step")
    line = first.split(",")
    line[step] = "0"
    (tmp_path / "generation_attention_perf.csv").write_text(f"{head}\n{','.join(line)}\n")
    (tmp_path / "context_attention_perf.csv").write_text(PREFILL)
    table = load_kernel_tables(tmp_path, PerPair())
    times = [table.cost(work(decodes=1, context=kv)).seconds for kv in range(0, 40)]
    assert times[0] > 0.0
    assert all(a <= b for a, b in pairwise(times))


def test_other_shapes_are_the_fallbacks(table):
    for work in (
        GemmWork(51, 512, 513),
        GemmWork(51, 512, 512, "fp8", "fp8"),
        AttentionWork((), 8, 8 * 129, 129, 4, 4, 64, 64),
    ):
        assert table.cost(work).source == Source.CALIBRATED


def test_the_seam_is_continuous(table):
    edge = table.cost(GemmWork(101, 512, 512)).seconds
    beyond = table.cost(GemmWork(102, 512, 512))
    assert beyond.source == Source.CALIBRATED
    assert beyond.seconds == pytest.approx(edge * 112 / 111)
    moe = MoeWork(10, 20.0, 8.0, 8, 2, 64, 128, distribution="uniform")
    assert table.cost(moe).seconds == pytest.approx(50e-6 * 20 / 19)


class Uneven:
    """Half as much again for odd rows."""

    def cost(self, work):
        return Cost(1e-6 * work.m * (1.5 if work.m % 2 else 1.0), Source.CALIBRATED)


def test_what_the_fallback_says_of_odd_sizes_makes_no_seam(tmp_path):
    (tmp_path / "gemm_perf.csv").write_text(GEMM.replace(",101,", ",64,"))
    table = load_kernel_tables(tmp_path, Uneven())
    times = [table.cost(GemmWork(m, 512, 512)).seconds for m in range(60, 300)]
    assert all(a <= b < 1.1 * a for a, b in pairwise(times))
    assert table.cost(GemmWork(256, 512, 512)).seconds == pytest.approx(4 * 12e-6)


class PerPair:
    """2 µs, and what (query, key) pairs and new tokens take; prompts at once take half of it."""

    def cost(self, work):
        pairs = 1e-9 * (work.prefill_pairs + work.decode_keys)
        tokens = 1e-8 * work.query_tokens
        return Cost((2e-6 + pairs + tokens) / (len(work.prefills) or 1), Source.CALIBRATED)


@pytest.fixture
def attention(tmp_path):
    (tmp_path / "generation_attention_perf.csv").write_text(DECODE)
    (tmp_path / "context_attention_perf.csv").write_text(PREFILL)
    return load_kernel_tables(tmp_path, PerPair(), DEVICE)


def work(prefills=(), decodes=0, context=0, longest=None):
    keys = decodes * (context + 1)
    most = 0 if not decodes else (longest or context) + 1
    return AttentionWork(tuple(prefills), decodes, keys, most, 4, 2, 64, 64)


def test_decodes_beyond_what_was_measured_at_both_counts_go_on_as_the_form_does(attention):
    form, edge = PerPair().cost, work(decodes=16, context=128)
    assert attention.cost(work(decodes=1, context=1024)).source == Source.MEASURED
    beyond = attention.cost(work(decodes=16, context=1024))  # either count was, but not together
    assert beyond.source == Source.CALIBRATED
    ratio = form(work(decodes=16, context=1024)).seconds / form(edge).seconds
    assert beyond.seconds == pytest.approx(attention.cost(edge).seconds * ratio)
    more = attention.cost(work(decodes=64, context=4096))
    assert more.seconds > 4 * 4 * beyond.seconds * 0.8


def test_no_kernel_beats_the_device(attention):
    decodes, prompt = work(decodes=16, context=1000), work([(64, 0)])
    narrow = replace(DEVICE, memory=MemoryTier("DRAM", 1e9, 1e9))
    # Two KV heads of 64 keys and values, 16-bit; queries and outputs of four heads; new keys.
    least = 16 * (1001 * 512 + 2 * 4 * 64 * 2 + 512) / 1e9
    found = replace(attention, device=narrow).cost(decodes)
    assert found == Cost(pytest.approx(least), Source.ANALYTICAL)
    slow = replace(DEVICE, peak_flops={"bf16": 1e9})
    least = 4 * 4 * 64 * 64 * 65 / 2 / 1e9  # four heads, 64 keys and values of 64·65/2 pairs
    found = replace(attention, device=slow).cost(prompt)
    assert found == Cost(pytest.approx(least), Source.ANALYTICAL)
    assert attention.cost(prompt).source == Source.MEASURED


def test_times_grow_without_jumps_over_the_edge_of_what_was_measured(attention):
    for batches in (
        [work(decodes=16, context=kv) for kv in range(100, 2000)],
        [work(decodes=n, context=512) for n in range(4, 40)],
        [work([(n, 0)]) for n in range(17, 300)],
        [work([(64, kv)]) for kv in range(500)],
    ):
        times = [attention.cost(one).seconds for one in batches]
        assert all(a <= b * (1 + 1e-9) for a, b in pairwise(times))
        assert all(b / a < 1.3 for a, b in pairwise(times))


def test_a_prompt_on_a_context_takes_what_the_form_adds_for_it(attention):
    fresh, later = work([(64, 0)]), work([(64, 5000)])
    form = PerPair().cost
    found = attention.cost(later)
    expected = 64e-6 * form(later).seconds / form(fresh).seconds
    assert found == Cost(pytest.approx(expected), Source.CALIBRATED)


def test_several_prompts_are_a_batch_of_their_own(attention):
    assert attention.cost(work([(64, 0)] * 4)) == Cost(pytest.approx(128e-6), Source.MEASURED)
    three = attention.cost(work([(64, 0)] * 3))  # between one and four, not one of 192 tokens
    assert three == Cost(pytest.approx(64e-6 + 2 / 3 * 64e-6), Source.MEASURED)
    unequal = work([(32, 0), (96, 0)])
    assert attention.cost(unequal).source == Source.CALIBRATED
    assert attention.cost(unequal).seconds > attention.cost(work([(64, 0)] * 2)).seconds


def test_prompts_beside_decodes_take_what_the_form_says_of_both_at_once(attention):
    form = PerPair().cost
    prompt, decodes = work([(64, 0)]), work(decodes=16, context=128)
    both = work([(64, 0)], decodes=16, context=128)
    apart = sum(attention.cost(one).seconds for one in (prompt, decodes))
    ratio = form(both).seconds / sum(form(one).seconds for one in (prompt, decodes))
    assert attention.cost(both) == Cost(pytest.approx(apart * ratio), Source.CALIBRATED)


def test_unequal_decodes_are_measured_where_the_longest_is(attention):
    inside = attention.cost(work(decodes=16, context=64, longest=128))
    assert inside.source == Source.MEASURED
    assert attention.cost(work(decodes=16, context=64, longest=500)).source == Source.CALIBRATED


def test_absent_tables(tmp_path):
    with pytest.raises(InputError, match="no kernel tables"):
        load_kernel_tables(tmp_path, PerRow())
