"""Throughput over time against what the paper measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servesim import simulate
from servesim.validation.paper.figure_5 import scenario, tokens_by_second
from servesim.validation.paper.figures import Cases, PaperData, compare_figure

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture(scope="module")
def data() -> PaperData:
    if not (SHARED / "paper" / "figure_5_a6000").is_dir():
        pytest.skip("the paper's measurements are not here")
    return PaperData.at(SHARED)


@pytest.fixture(scope="module")
def cases(data: PaperData) -> Cases:
    return compare_figure("5", data)


def test_every_output_token_is_in_one_second() -> None:
    records = simulate(
        model="Qwen/Qwen3-0.6B",
        hardware="h100_sxm",
        instance=[{"name": "p", "role": "prefill"}, {"name": "d", "role": "decode"}],
        network={"bandwidth": 50e9},
        workload={"kind": "poisson", "rate": 20.0, "num_requests": 50, "output_tokens": 40},
    ).records
    tokens = tokens_by_second(records)
    assert tokens.sum() == 50 * 40
    assert tokens[-1] > 0


@pytest.mark.parametrize("case", ["MD", "PDD", "SD+PC"])
def test_mean_throughput(cases: Cases, case: str) -> None:
    assert abs(cases[case]["mean_throughput_tokens_per_s"].error) < 0.025


def test_a_mixture_of_experts_without_measured_layers_is_only_near(cases: Cases) -> None:
    # Its experts cost what an A100's do relative to its peaks; vLLM tunes kernels for that one.
    assert abs(cases["SM"]["mean_throughput_tokens_per_s"].error) < 0.25


def test_the_measured_curve_holds_the_tokens_of_the_workload(data: PaperData) -> None:
    rows = data.table("figure_5_a6000/MD_throughput.tsv")
    settings = data.settings("figure_5_a6000/MD_config.json")
    made = scenario(settings, data, "sharegpt_req300_rate10_llama")
    tokens = sum(simulate(made).records.requests.output_tokens)
    assert np.sum([float(row["throughput"]) for row in rows]) == pytest.approx(tokens, rel=0.01)
