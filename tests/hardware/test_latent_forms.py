"""Forms of latent attention (MLA): tiles of heads, splits, short prompts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.graph.work import AttentionWork
from servesim.hardware.forms.latent_decode import LatentDecodeForm
from servesim.hardware.forms.latent_prefill import LatentPrefillForm
from servesim.hardware.forms.machine import Machine

#: 10 TFLOP/s a core, 1 TB/s.
MACHINE = Machine(flops=1e15, bandwidth=1e12, cache_bytes=1e6, cores=100)
DECODE = LatentDecodeForm(
    launch=1e-5,
    doubling=0.0,
    query=0.0,
    combine=0.0,
    tile=0.0,
    compute=1.0,
    memory=1.0,
    sharpness=20.0,
    smoothing=0.0,
    rows=64.0,
    block=64.0,
)
PREFILL = LatentPrefillForm(
    launch=1e-5,
    token=0.0,
    query=0.0,
    tile=0.0,
    compute=1.0,
    tail=0.0,
    smoothing=0.0,
    rows=64.0,
)


def decodes(count: int, keys: int, heads: int = 64) -> AttentionWork:
    return AttentionWork((), count, count * keys, keys, heads, 1, 576, 512, latent=True)


def prefills(new: int, context: int = 0, count: int = 1, heads: int = 16) -> AttentionWork:
    return AttentionWork(((new, context),) * count, 0, 0, 0, heads, heads, 192, 128)


def test_decodes_that_fill_the_device_wait_for_memory() -> None:
    work = decodes(200, 10000)  # 2 rounds of 10000 keys x 2*64*1088 FLOP at 10 TFLOP/s: 0.28 ms
    assert DECODE.seconds(work, MACHINE) == pytest.approx(1e-5 + 200 * 10000 * 1152 / 1e12)


def test_one_sequence_is_split_over_the_cores_up_to_the_limit() -> None:
    work = decodes(1, 64000)
    joined = 64 * 100 * 512 * 8 / 1e12
    tiled = 640 * 2 * 64 * 1088 / 1e13
    memory = 64000 * 1152 / 1e12
    whole = (tiled**20 + memory**20) ** 0.05
    assert DECODE.seconds(work, MACHINE) == pytest.approx(1e-5 + joined + whole)
    few = replace(DECODE, most_splits=10.0)
    slower = 6400 * 2 * 64 * 1088 / 1e13
    assert few.seconds(work, MACHINE) == pytest.approx(1e-5 + joined / 10 + slower, rel=0.02)


def test_a_tile_costs_the_same_however_few_heads_it_holds_but_for_filling_it_up() -> None:
    apart = replace(DECODE, splits=1.0)
    assert apart.seconds(decodes(50, 4000, 1), MACHINE) == pytest.approx(
        apart.seconds(decodes(50, 4000, 64), MACHINE)
    )
    padded = replace(apart, pad_launch=3e-6)
    assert padded.seconds(decodes(50, 4000, 32), MACHINE) == pytest.approx(
        apart.seconds(decodes(50, 4000, 64), MACHINE) + 3e-6
    )


def test_tiles_of_a_sequence_that_run_apart_read_its_latents_again() -> None:
    few, many = decodes(50, 20000, 128), decodes(200, 20000, 128)
    apart = replace(DECODE, apart=1.0)
    assert apart.seconds(few, MACHINE) == pytest.approx(DECODE.seconds(few, MACHINE), rel=1e-3)
    assert apart.seconds(many, MACHINE) == pytest.approx(2 * 200 * 20000 * 1152 / 1e12, rel=0.01)


@given(st.integers(1, 300), st.integers(1, 50000), st.sampled_from([1, 16, 64, 128]))
def test_decodes_never_beat_memory_and_grow_with_context(count: int, keys: int, heads: int) -> None:
    seconds = DECODE.seconds(decodes(count, keys, heads), MACHINE)
    assert seconds >= count * keys * 1152 / 1e12
    assert DECODE.seconds(decodes(count, 2 * keys, heads), MACHINE) >= seconds


def test_long_prompts_attend_to_expanded_keys() -> None:
    work = prefills(4096, count=10)
    flops = 2.0 * (192 + 128 + 30) * 10 * 16 * 64 * sum(64 * (i + 1) for i in range(64))
    assert PREFILL.seconds(work, MACHINE) == pytest.approx(1e-5 + flops / 1e15, rel=0.01)


def test_short_prompts_go_to_the_latents_if_the_device_does_so() -> None:
    short = replace(PREFILL, absorbed=512.0, query=1e-7)
    plain = replace(PREFILL, query=1e-7)
    assert short.seconds(prefills(513), MACHINE) == plain.seconds(prefills(513), MACHINE)
    assert short.seconds(prefills(512), MACHINE) > plain.seconds(prefills(512), MACHINE)
    # The keys of a context are put together only where they are expanded.
    expanded = plain.seconds(prefills(512, 65536), MACHINE)
    assert expanded > plain.seconds(prefills(512), MACHINE) + 65536 * 16 * 1e-7 / 100


@given(st.integers(1, 5000), st.integers(0, 20000), st.integers(1, 5))
def test_prefills_take_longer_with_more_of_them(new: int, context: int, count: int) -> None:
    work = prefills(new, context, count)
    more = prefills(new, context, count + 1)
    assert PREFILL.seconds(more, MACHINE) >= PREFILL.seconds(work, MACHINE) > 1e-5


def test_no_work_takes_no_time() -> None:
    assert DECODE.seconds(prefills(5), MACHINE) == 0.0
    assert PREFILL.seconds(decodes(5, 5), MACHINE) == 0.0
