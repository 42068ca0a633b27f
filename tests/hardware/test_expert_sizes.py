"""Experts over all numbers of tokens: no cliffs, and what is lent."""

from __future__ import annotations

import itertools

import pytest

from servesim.graph.work import MoeWork
from servesim.hardware.calibrated import CalibratedCost
from servesim.hardware.load import load_device

#: Experts, experts a token, hidden size and width: of gpt-oss-120b, Qwen3-30B-A3B, Mixtral-8x7B.
SHAPES = [(128, 4, 2880, 2880), (128, 8, 2048, 768), (8, 2, 4096, 7168)]
#: Steps of tokens, and what is not a cliff: tables show kernels that take a quarter less with half
#: as many tokens again.
STEP, CLIFF, LESS = 1.01, 0.03, 0.3


def costs_of(name: str) -> CalibratedCost:
    costs = load_device(name).cost_model
    assert isinstance(costs, CalibratedCost)
    return costs


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize(
    "name", ["a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "rtx_pro_6000", "rtx_a6000", "mi300x"]
)
def test_a_few_tokens_more_are_hardly_cheaper(name: str, ranks: int) -> None:
    costs = costs_of(name)
    sizes = sorted({round(100 * STEP**i) for i in range(430)})
    formats = [f for f in ("bf16", "int4", "mxfp4") if f in costs.entries["moe"]]
    for (experts, top_k, hidden, width), weight in itertools.product(SHAPES, formats):
        own = experts // ranks
        times = []
        for tokens in sizes:
            pairs = tokens * top_k
            touched = own * (1.0 - (1.0 - 1.0 / experts) ** pairs)
            work = MoeWork(
                tokens, pairs / ranks, touched, own, top_k, hidden, width, True, "bf16", weight
            )
            times.append(costs.cost(work).seconds)
        most = 0.0
        for tokens, before, after in zip(sizes[1:], times, times[1:], strict=False):
            most = max(most, before)
            assert after > (1.0 - CLIFF) * before, (weight, experts, tokens)
            assert after > (1.0 - LESS) * most, (weight, experts, tokens)


@pytest.mark.parametrize("name", ["a100_sxm", "rtx_a6000", "mi300x"])
def test_unpacking_kernels_keep_the_pace_of_a_core(name: str) -> None:
    lender, costs = costs_of("h100_sxm"), costs_of(name)
    rates = [
        c.entries["moe"]["int4"].form.compute * c.device.peak_flops["bf16"] / c.device.cores
        for c in (lender, costs)
    ]
    assert rates[1] == pytest.approx(rates[0])
