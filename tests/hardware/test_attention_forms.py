"""Forms of attention: limits worked out by hand, and how they must grow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.graph.work import AttentionWork, attended_pairs
from servesim.hardware.forms.attention import AttentionForm
from servesim.hardware.forms.decode import DecodeForm
from servesim.hardware.forms.machine import Machine, blended_max, step_keys
from servesim.hardware.forms.prefill import PrefillForm, block_keys

MACHINE = Machine(flops=100e12, bandwidth=1e12, cache_bytes=1e7, cores=100)
DECODE = DecodeForm(
    launch=5e-6,
    batch=1e-6,
    combine=2e-6,
    block=128.0,
    tile=1e-6,
    stream=8.0,
    compute=0.5,
    resident_tiles=1.0,
    memory=0.9,
    cache=4.0,
    sharpness=3.0,
)
PREFILL = PrefillForm(
    launch=4e-6,
    rows=64.0,
    tile=1e-6,
    compute=0.5,
    softmax=0.0,
    tail=0.5,
    smoothing=0.0,
    memory=0.9,
    sharpness=8.0,
)


def decodes(count: int, context: int, heads: int = 32, kv_heads: int = 8) -> AttentionWork:
    keys = context + 1
    return AttentionWork((), count, count * keys, keys, heads, kv_heads, 128, 128)


@pytest.mark.parametrize(
    ("width", "keys"),
    [(32, 256), (64, 256), (80, 128), (96, 128), (128, 128), (192, 64), (256, 64)],
)
def test_wide_heads_leave_room_for_fewer_keys_a_step(width: int, keys: int) -> None:
    assert step_keys(256.0, 16384.0, width) == keys
    assert step_keys(128.0, 0.0, width) == 128.0
    wide = AttentionWork((), 4, 4 * keys, keys, 8, 1, width, width)
    least = replace(DECODE, block=256.0, room=16384.0)
    same = replace(DECODE, block=float(keys))
    assert least.seconds(wide, MACHINE) == same.seconds(wide, MACHINE)


def test_decodes_are_linear_in_context_once_memory_decides() -> None:
    times = [DECODE.seconds(decodes(64, c), MACHINE) for c in (8000, 16000, 24000)]
    assert times[1] - times[0] == pytest.approx(times[2] - times[1], rel=0.01)
    read = 64 * 8000 * 2 * 8 * 256 / 0.9e12  # keys and values, 16 bit, 8 heads
    assert times[1] - times[0] == pytest.approx(read, rel=0.01)


def test_long_outliers_cost_a_share_of_the_gap_once_tiles_wait_for_a_core() -> None:
    for count, rounds in ((16, 0.0), (64, 5.12), (128, 10.24)):  # of 8 heads each, on 100 cores
        even = decodes(count, 1000)
        uneven = replace(even, decode_keys_max=8000)
        longest = decodes(count, 8000)
        low, mid, high = (DECODE.seconds(w, MACHINE) for w in (even, uneven, longest))
        share = DECODE.skew / rounds if rounds else 0.0
        assert (mid - low) / (high - low) == pytest.approx(share, rel=0.05)


def test_decodes_go_through_whole_blocks_of_keys() -> None:
    form = replace(DECODE, sharpness=10.0)
    times = [form.seconds(decodes(1, keys - 1), MACHINE) for keys in (2, 128, 129)]
    assert times[0] == pytest.approx(times[1], rel=0.01)  # one block, however few of its keys
    assert times[2] > times[1] + DECODE.combine  # two blocks, split


def test_swapping_heads_and_groups_is_done_by_kernels_of_its_own() -> None:
    swaps = replace(DECODE, doubling=1e-7, swap=2e-8)
    for kv_heads, more in ((1, 3e-7), (32, 3e-7), (8, 9e-7 + 2e-8 * 8 * 32 / 100)):
        work = decodes(8, 127, 32, kv_heads)
        taken = swaps.seconds(work, MACHINE) - DECODE.seconds(work, MACHINE)
        assert taken == pytest.approx(more)
    alone = decodes(1, 127)
    assert swaps.seconds(alone, MACHINE) == DECODE.seconds(alone, MACHINE)


def test_joining_splits_reads_what_each_found_of_every_head() -> None:
    joins = replace(DECODE, partial=1e-8)
    for context, splits in ((127, 0), (511, 4), (1023, 8)):
        work = decodes(1, context)  # 8 KV heads: up to 12 splits of 128 keys
        taken = joins.seconds(work, MACHINE) - DECODE.seconds(work, MACHINE)
        assert taken == pytest.approx(1e-8 * 32 * splits / 100, abs=1e-12)


def test_a_window_that_slid_starts_amid_a_block() -> None:
    form = replace(DECODE, window=3e-6)
    full = decodes(4, 127)
    slid = replace(full, window=128)  # 128 keys over two blocks
    young = replace(decodes(4, 63), window=128)
    assert form.seconds(young, MACHINE) == form.seconds(decodes(4, 63), MACHINE)
    assert form.seconds(slid, MACHINE) >= form.seconds(full, MACHINE) + 3e-6 + form.combine


def test_few_splits_leave_cores_idle_for_long_contexts() -> None:
    work = decodes(8, 32767, heads=8, kv_heads=1)
    free, four = (replace(DECODE, stream=1.0, most_splits=most) for most in (0.0, 32.0))
    key = 512 * 100 / 1e12  # of 16-bit keys and values at a core's share of bandwidth
    assert four.seconds(work, MACHINE) == pytest.approx(5e-6 + 2e-6 + 1e-6 + 8192 * key, rel=0.05)
    assert free.seconds(work, MACHINE) < four.seconds(work, MACHINE) / 2


def test_short_prefills_move_queries_and_outputs_too() -> None:
    form = replace(PREFILL, tile=1e-9, compute=1.0)
    work = AttentionWork(((16, 0),) * 4096, 0, 0, 0, 16, 16, 128, 128)
    moved = 4096 * 16 * 16 * 4 * 128 * 2  # queries, keys, values, outputs
    assert form.seconds(work, MACHINE) == pytest.approx(4e-6 + moved / 0.9e12, rel=0.2)
    stored = replace(form, passes=1.0)
    assert stored.seconds(work, MACHINE) - form.seconds(work, MACHINE) == pytest.approx(
        moved / 0.9e12
    )


def test_new_tokens_come_from_the_cache_while_it_holds_them() -> None:
    work = AttentionWork(((64, 0),), 0, 0, 0, 16, 16, 128, 128)  # 1.5 MB of 10
    far = replace(PREFILL, tile=1e-9, memory=0.01)
    near = replace(far, held=1.0, cache=4.0)
    assert near.seconds(work, MACHINE) < far.seconds(work, MACHINE) / 2


@given(
    count=st.integers(1, 300),
    keys=st.integers(1, 20000),
    kv_heads=st.sampled_from([1, 2, 8]),
    window=st.sampled_from([None, 128, 4096]),
    grow=st.sampled_from(["count", "keys"]),
)
def test_more_decodes_or_keys_take_no_less_time(
    count: int, keys: int, kv_heads: int, window: int | None, grow: str
) -> None:
    form = replace(DECODE, join=3e-8, sequence=1e-8, query=1e-8, window=1e-6)

    def seconds(count: int, keys: int) -> float:
        seen = keys if window is None else min(keys, window)
        work = AttentionWork((), count, count * seen, seen, 32, kv_heads, 128, 128, window=window)
        return form.seconds(work, MACHINE)

    more = (8 * count, keys) if grow == "count" else (count, 8 * keys)
    assert seconds(*more) >= seconds(count, keys) - form.combine - form.join * 100


@given(new=st.integers(1, 500), context=st.integers(0, 500), window=st.integers(1, 600))
def test_blocks_cover_every_attended_pair(new: int, context: int, window: int) -> None:
    """With one query a block, blocks go through the attended keys and little more."""
    for limit in (None, window):
        keys = block_keys(new, context, new, 1.0, limit)
        assert keys >= attended_pairs(new, context, limit) - 1e-6
        assert keys <= attended_pairs(new, context, limit) + new


def block_seconds(form: PrefillForm, work: AttentionWork) -> float:
    """What blocks take beside launching, of one head, alone on a core."""
    return form.seconds(work, replace(MACHINE, cores=1, bandwidth=1e15)) - form.launch


def test_blocks_go_through_whole_columns_at_both_ends_of_a_window() -> None:
    form = replace(PREFILL, columns=128.0, tile=0.0, tail=0.0, smoothing=1.0)
    key = 2 * 64 * 256 / (0.5 * MACHINE.flops)
    # Blocks that see 64, 128, 192 keys take 32 more on average, and the last its 256.
    whole = AttentionWork(((256, 0),), 0, 0, 0, 1, 1, 128, 128)
    assert block_seconds(form, whole) == pytest.approx((96 + 160 + 224 + 256) * key, rel=1e-3)
    # With a window of 64 all but the first see 128, and start amid columns as well; the last does
    # not.
    window = AttentionWork(((256, 0),), 0, 0, 0, 1, 1, 128, 128, window=64)
    assert block_seconds(form, window) == pytest.approx(
        (64 + 32 + 2 * (128 + 64) + 128) * key, 1e-3
    )


def test_the_half_of_a_block_without_queries_is_left_out() -> None:
    whole = replace(PREFILL, tile=0.0)
    halves = replace(whole, halves=1.0)
    for new, share in ((16, 0.5), (32, 0.5), (33, 1.0), (64, 1.0)):
        work = AttentionWork(((new, 1024),), 0, 0, 0, 1, 1, 128, 128)
        taken = block_seconds(halves, work) / block_seconds(whole, work)
        assert taken == pytest.approx(share, rel=1e-2)


def test_a_prefill_of_one_round_takes_its_longest_block() -> None:
    work = AttentionWork(((64, 4032),), 0, 0, 0, 32, 8, 128, 128)  # 32 blocks on 100 cores
    key = 2 * 64 * 256 * 100 / 50e12
    expected = 4e-6 + 1e-6 + 4096 * key
    assert PREFILL.seconds(work, MACHINE) == pytest.approx(expected, rel=0.01)


def test_mixed_batches_add_up_beside_and_queue_when_joint() -> None:
    prefill = AttentionWork(((512, 0),), 0, 0, 0, 32, 8, 128, 128)
    alone = decodes(64, 2000)
    mixed = replace(alone, prefills=prefill.prefills)
    beside = AttentionForm(DECODE, PREFILL)
    joint = AttentionForm(DECODE, replace(PREFILL, joint=1.0))
    parts = [beside.seconds(w, MACHINE) for w in (prefill, alone)]
    assert beside.seconds(mixed, MACHINE) == pytest.approx(sum(parts) - DECODE.launch)
    assert joint.seconds(mixed, MACHINE) > beside.seconds(mixed, MACHINE)


def test_groups_that_the_kernel_is_made_for_take_less_a_query() -> None:
    form = replace(PREFILL, gather=1e-9, scatter=3e-9, least_group=4.0, most_group=16.0)
    alike = replace(form, most_group=0.0)

    def a_query(form: PrefillForm, heads: int, kv_heads: int) -> float:
        work = AttentionWork(((256, 0),), 0, 0, 0, heads, kv_heads, 128, 128)
        without = replace(form, gather=0.0, scatter=0.0)
        seconds = form.seconds(work, MACHINE) - without.seconds(work, MACHINE)
        return seconds * MACHINE.cores / (256 * heads)

    for heads, kv_heads in ((32, 8), (32, 2)):  # groups of 4 and 16
        assert a_query(form, heads, kv_heads) == pytest.approx(1e-9)
    for heads, kv_heads in ((24, 4), (32, 1), (32, 16), (32, 32)):  # of 6, 32, 2 and 1
        assert a_query(form, heads, kv_heads) == pytest.approx(3e-9)
    assert a_query(alike, 24, 4) == pytest.approx(1e-9)
    assert a_query(alike, 32, 32) == pytest.approx(0.0, abs=1e-15)


def test_segments_are_as_many_for_all_sequences_until_tiles_fill_the_grid() -> None:
    plain = replace(DECODE, combine=0.0, smoothing=0.0, partial=1e-8)
    segmented = replace(plain, segments=16.0)
    # 16 x 8 x 16 tiles in 21 rounds, each 1 us and a sixteenth of 128 keys of 6.4 ns; one segment
    # of every head has something to hand over.
    tiled, memory = 21 * (1e-6 + 8 * 6.4e-9), 16 * 8 * 4096 / 0.9e12
    joined = 16 * 32 * 1e-8 / 100
    assert segmented.seconds(decodes(16, 7), MACHINE) == pytest.approx(
        6e-6 + joined + blended_max(tiled, memory, 3.0)
    )
    many = decodes(17, 1000)  # 136 tiles
    assert segmented.seconds(many, MACHINE) == plain.seconds(many, MACHINE)
