"""Metrics from records, and the bounded sample behind ITL."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_runs import request, run

from servesim.runtime.gaps import WeightedSample
from servesim.runtime.metrics import Slo, distribution, goodput, report, tpot, ttft

# 0-1.8: 8 of the first prompt; -3.5: 2 and 5, both have a token; -4.7: both; -5.8: the first alone.
RECORDS = run([request(0, 0.0, 10, 3), request(1, 0.5, 5, 2)], max_num_batched_tokens=8, blocks=11)


def test_the_report_of_two_requests_by_hand() -> None:
    found = report(RECORDS)
    assert (found.requests, found.finished, found.rejected, found.steps) == (2, 2, 0, 4)
    assert found.makespan_s == pytest.approx(5.8)
    assert found.ttft.mean == pytest.approx((3.5 + 3.0) / 2)
    assert found.tpot.mean == pytest.approx((2.3 / 2 + 1.2) / 2)
    assert found.e2e.mean == pytest.approx((5.8 + 4.2) / 2)
    assert found.itl.count == 3
    assert found.itl.mean == pytest.approx((1.2 + 1.2 + 1.1) / 3)
    assert found.request_throughput == pytest.approx(2 / 5.8)
    assert found.output_throughput == pytest.approx(5 / 5.8)
    assert found.total_throughput == pytest.approx(20 / 5.8)
    # One block of 16 tokens each, of ten: the second one is there from 1.8 to 4.7.
    assert found.kv_use_peak == pytest.approx(0.2)
    assert found.kv_use_mean == pytest.approx((1.8 + 2 * 2.9 + 1.1) / 5.8 / 10)
    assert (found.preemptions, found.prefix_hit_rate) == (0, 0.0)


def test_latencies_count_from_the_client_or_from_the_engine() -> None:
    requests = RECORDS.requests
    assert list(ttft(requests)) == pytest.approx([3.5, 3.0])
    assert list(ttft(requests, since="queued_s")) == pytest.approx([3.5, 1.7])


def test_goodput_counts_who_met_every_limit() -> None:
    requests = RECORDS.requests
    assert goodput(requests, Slo()) == pytest.approx(2 / 5.8)
    assert goodput(requests, Slo(ttft_s=3.2)) == pytest.approx(1 / 5.8)
    assert goodput(requests, Slo(tpot_s=1.17)) == pytest.approx(1 / 5.8)
    assert goodput(requests, Slo(ttft_s=3.2, tpot_s=1.17)) == 0
    assert goodput(requests, Slo(e2e_s=6.0)) == pytest.approx(2 / 5.8)


def test_prefix_hits_are_a_share_of_prompt_tokens() -> None:
    ids = {"prefix_block_ids": (1, 2), "prefix_block_size": 16}
    records = run([request(0, 0.0, 40, 1, **ids), request(1, 10.0, 40, 1, **ids)])
    assert report(records).prefix_hit_rate == pytest.approx(32 / 80)


def test_one_token_answers_have_no_tpot() -> None:
    records = run([request(0, 0.0, 10, 1)])
    assert len(tpot(records.requests)) == 0
    found = report(records)
    assert math.isnan(found.tpot.mean)
    assert math.isnan(found.itl.p99)
    assert found.ttft.count == 1


def test_a_run_of_rejected_requests_has_a_report() -> None:
    found = report(run([request(0, 0.0, 500, 1)], blocks=3))
    assert (found.requests, found.finished, found.rejected) == (1, 0, 1)
    assert found.makespan_s == found.output_throughput == found.kv_use_mean == 0
    assert math.isnan(found.ttft.mean)


def test_percentiles_are_linear_between_order_statistics() -> None:
    found = distribution(np.arange(1.0, 102.0))
    assert (found.p50, found.p90, found.p95, found.p99) == pytest.approx((51, 91, 96, 100))


WEIGHTED = st.lists(
    st.tuples(st.floats(1e-4, 10), st.integers(0, 9)), min_size=1, max_size=40
).filter(lambda pairs: any(weight for _, weight in pairs))


@given(WEIGHTED, st.floats(0, 1))
def test_a_weighted_sample_is_the_repeated_one(pairs: list[tuple[float, int]], q: float) -> None:
    sample = WeightedSample()
    for value, weight in pairs:
        sample.add([value], [weight])
    repeated = np.repeat(*map(np.array, zip(*pairs, strict=True)))
    assert sample.total == len(repeated)
    assert sample.mean() == pytest.approx(repeated.mean())
    assert sample.quantile(q) == pytest.approx(float(np.quantile(repeated, q)))


def test_a_huge_sample_stays_small_and_close() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(-4, 1, 400_000)
    sample = WeightedSample()
    for part in np.split(values, 8):
        sample.add(part, np.ones(len(part)))
    assert len(sample.values) < 200_000
    assert sample.total == 400_000
    assert sample.mean() == pytest.approx(values.mean())
    for q in (0.5, 0.9, 0.99):
        assert sample.quantile(q) == pytest.approx(np.quantile(values, q), rel=1e-3)
