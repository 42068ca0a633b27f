"""Attention from a grid: interpolation, several prefills, unequal contexts, beyond the range."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.graph.work import AttentionWork
from servesim.hardware.cost import Source
from servesim.hardware.tables.attention import AttentionGrid, PhaseGrid
from servesim.hardware.tables.mixed import AttentionTable
from servesim.hardware.tables.skew import Skew, SkewSample

CHUNKS, DECODES, CONTEXTS = (16, 64, 256, 1024), (1, 4, 16, 64), (16, 256, 1024, 4096)


def decode_time(n, kv):
    return 10 + 2 * n + 0.01 * n * kv


def mixed_time(chunk, before, n, kv):
    """Bilinear in (chunk, before) and in (n, kv): a grid must give it back exactly."""
    return 20 + 0.1 * chunk + 0.001 * chunk * before + (3 * n + 0.02 * n * kv)


def points():
    found = {(0, 0, n, kv): decode_time(n, kv) for n in DECODES for kv in CONTEXTS}
    for chunk in CHUNKS:
        for before in (0, *CONTEXTS):
            found[chunk, before, 0, 0] = mixed_time(chunk, before, 0, 0)
            for n in DECODES:
                for kv in CONTEXTS:
                    found[chunk, before, n, kv] = mixed_time(chunk, before, n, kv)
    return found


GRID = AttentionGrid.of(points())
TABLE = AttentionTable(GRID)


def work(prefills=(), decodes=0, context=0, longest=None, window=None):
    """Decodes at a mean ``context`` before the step."""
    most = (longest if longest is not None else context) + 1 if decodes else 0
    keys = decodes * (context + 1)
    return AttentionWork(tuple(prefills), decodes, keys, most, 32, 8, 128, 128, window=window)


@given(st.integers(1, 64), st.integers(16, 4096))
def test_decodes_are_interpolated_linearly(n, kv):
    assert GRID.decode_seconds(n, kv) == pytest.approx(decode_time(n, kv))


@given(st.integers(16, 1024), st.integers(0, 4096), st.integers(1, 64), st.integers(16, 4096))
def test_mixed_batches_are_interpolated_linearly(chunk, before, n, kv):
    found = GRID.mixed_seconds(chunk, before, n, kv)
    assert found == pytest.approx(mixed_time(chunk, before, n, kv))
    assert GRID.mixed_seconds(chunk, before, 0, 0) == pytest.approx(mixed_time(chunk, before, 0, 0))


def test_a_chunk_measured_over_fewer_contexts_follows_its_neighbours():
    some = points()
    for chunk, before, n, kv in list(some):
        if chunk == 64 and n and kv < 1024:
            del some[chunk, before, n, kv]
    some = {p: t + (5 if p[0] == 64 and p[2] else 0) for p, t in some.items()}
    grid = AttentionGrid.of(some)
    assert grid.mixed_seconds(64, 256, 4, 1024) == pytest.approx(mixed_time(64, 256, 4, 1024) + 5)
    assert grid.mixed_seconds(64, 256, 4, 256) == pytest.approx(mixed_time(64, 256, 4, 256) + 5)


def test_beyond_the_range_the_slope_goes_on_and_the_source_says_so():
    inside = TABLE.cost(work(decodes=64, context=4096))
    beyond = TABLE.cost(work(decodes=64, context=8192))
    more = TABLE.cost(work(decodes=128, context=1024))
    assert inside.source == Source.MEASURED
    assert (beyond.source, more.source) == (Source.EXTRAPOLATED, Source.EXTRAPOLATED)
    assert beyond.seconds == pytest.approx(decode_time(64, 8192))
    assert more.seconds == pytest.approx(decode_time(128, 1024))
    assert TABLE.cost(work([(2000, 0)])).source == Source.EXTRAPOLATED
    assert TABLE.cost(work([(100, 5000)])).source == Source.EXTRAPOLATED


def test_only_what_lies_between_measurements_is_measured():
    # Many decodes were not measured on long contexts, as memories allow.
    decode = {(n, kv): decode_time(n, kv) for n in DECODES for kv in CONTEXTS if n * kv <= 16384}
    prefill = {(n, kv): 1.0 + n for n in CHUNKS for kv in (0, *CONTEXTS) if n + kv <= 4096}
    table = AttentionTable(PhaseGrid.of(decode, prefill))
    for inside in (
        work(decodes=4, context=4096),
        work(decodes=16, context=1000),
        work([(64, 256)]),
    ):
        assert table.cost(inside).source == Source.MEASURED
    for beyond in (
        work(decodes=64, context=4096),  # each count was measured, but not together
        work(decodes=5, context=4096),
        work([(256, 4096)]),
        work([(64, 256)], decodes=64, context=4096),
    ):
        assert table.cost(beyond).source == Source.EXTRAPOLATED


def test_a_long_chunk_is_cut_into_measured_ones():
    cut = mixed_time(1024, 0, 0, 0) + mixed_time(1024, 1024, 0, 0) + mixed_time(952, 2048, 0, 0)
    assert TABLE.cost(work([(3000, 0)])).seconds == pytest.approx(cut)


def test_several_prefills_count_as_one_with_as_many_pairs():
    # 100 tokens on 300 and 50 on 0: 35 050 + 1 275 pairs over 150 tokens, context 166.67.
    context = (35_050 + 1_275 - 150 * 151 / 2) / 150
    found = TABLE.cost(work([(100, 300), (50, 0)])).seconds
    assert found == pytest.approx(mixed_time(150, context, 0, 0))


def test_fresh_prompts_side_by_side_follow_the_slope_in_the_context():
    # 40·41/2 + 50·51/2 pairs are 2000 fewer than 90·91/2; each pair costs 0.001 here.
    found = TABLE.seconds([(40, 0), (50, 0)], 0, 0, 0)
    assert found == pytest.approx(mixed_time(90, 0, 0, 0) - 2.0)


PREFILLS = st.lists(st.tuples(st.integers(1, 512), st.integers(0, 3000)), min_size=1, max_size=5)


@given(PREFILLS, st.integers(0, 64), st.integers(16, 4096))
def test_a_step_takes_no_less_than_any_of_its_prefills(prefills, n, kv):
    whole = TABLE.seconds(prefills, n, n * (kv + 1), kv + 1)
    for prefill in prefills:
        assert whole >= TABLE.seconds([prefill], 0, 0, 0) - 1e-9


@given(PREFILLS)
def test_the_order_of_prefills_does_not_matter(prefills):
    there = TABLE.seconds(prefills, 0, 0, 0)
    back = TABLE.seconds(prefills[::-1], 0, 0, 0)
    assert there == pytest.approx(back, rel=1e-12)


def test_a_window_limits_what_a_prefill_attends_to():
    full, windowed = work([(512, 2048)]), work([(512, 2048)], window=256)
    assert TABLE.cost(windowed).seconds < TABLE.cost(full).seconds
    wide = work([(512, 2048)], window=10_000)
    assert TABLE.cost(wide).seconds == pytest.approx(TABLE.cost(full).seconds)


def test_nothing_to_attend_takes_no_time():
    assert TABLE.cost(work()).seconds == 0


def sample(chunk, n, longest, alpha, mean=1.0, most=3.0):
    return SkewSample(chunk, n, longest, mean, most, mean + alpha * (most - mean))


def test_alpha_is_what_was_measured_and_linear_between():
    skew = Skew.of([sample(0, 8, 1024, 0.1), sample(0, 16, 1024, 0.3), sample(64, 8, 1024, 0.8)])
    assert skew.at(0, 8, 1024) == pytest.approx(0.1)
    assert skew.at(0, 12, 1024) == pytest.approx(0.2)
    assert skew.at(0, 2, 10) == pytest.approx(0.1)
    assert skew.at(0, 99, 10**6) == pytest.approx(0.3)
    assert skew.at(1, 8, 1024) == skew.at(64, 8, 1024) == pytest.approx(0.8)
    assert Skew.of([]) is None


def test_alpha_stays_between_the_mean_and_the_longest():
    skew = Skew.of([sample(0, 8, 1024, -0.2), sample(0, 16, 1024, 1.5)])
    assert (skew.at(0, 8, 1024), skew.at(0, 16, 1024)) == (0.0, 1.0)


def test_unequal_contexts_cost_alpha_of_the_gap():
    table = AttentionTable(GRID, Skew.of([sample(0, 8, 2048, 0.25)]))
    mean, most = decode_time(8, 500), decode_time(8, 2048)
    found = table.cost(work(decodes=8, context=500, longest=2048)).seconds
    assert found == pytest.approx(mean + 0.25 * (most - mean))
    assert table.cost(work(decodes=8, context=500)).seconds == pytest.approx(mean)


def test_the_tail_of_a_count_is_that_of_the_next_measured_one():
    samples = [sample(0, n, 2048, alpha) for n, alpha in ((8, 0.0), (16, 0.25))]
    table = AttentionTable(GRID, Skew.of(samples))
    found = table.cost(work(decodes=9, context=500, longest=2048)).seconds
    tail = 0.25 * (decode_time(16, 2048) - decode_time(16, 500))
    assert found == pytest.approx(decode_time(9, 500) + tail)
