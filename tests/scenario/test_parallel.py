"""Engines spread over several devices, from scenario to result."""

from __future__ import annotations

import pytest

from servesim import Result, simulate
from servesim.errors import ServesimError

SMALL = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100_sxm",
    "workload": {"kind": "poisson", "rate": 20, "num_requests": 30, "prompt_tokens": 300,
                 "output_tokens": 20},
}  # fmt: skip


def run(**engine: object) -> Result:
    result = simulate(**{**SMALL, "engine": {"max_model_len": 8192, **engine}})
    assert result.metrics.finished == 30
    return result


def test_a_pipeline_holds_each_layer_once() -> None:
    whole, split = run(), run(pipeline_parallel_size=3)
    served = split.deployment.served[0]
    assert [stage.graph.num_layers for stage in served.placements] == [11, 11, 10]
    weights = sum(stage.graph.weight_bytes for stage in served.placements)
    assert weights == whole.deployment.served[0].graph.weight_bytes
    assert served.devices == 3
    assert split.cost.usd_per_hour == pytest.approx(3 * (whole.cost.usd_per_hour or 0))
    assert served.memory.kv_cache_tokens > 3 * whole.deployment.served[0].memory.kv_cache_tokens


def test_a_pipeline_is_no_faster_for_a_request_alone() -> None:
    alone = {"workload": {"num_requests": 1, "rate": 1}}
    times = []
    for stages in (1, 2):
        engine = {"pipeline_parallel_size": stages, "max_model_len": 8192}
        sections = {**SMALL, "engine": engine}
        sections["workload"] = {**SMALL["workload"], **alone["workload"]}  # type: ignore[dict-item]
        times.append(simulate(**sections).metrics.tpot.mean)
    assert times[0] < times[1] < 1.1 * times[0]  # the hops, nothing saved


def test_energy_counts_every_device() -> None:
    one, two = (run(pipeline_parallel_size=p).energy for p in (1, 2))
    assert one is not None
    assert two is not None
    assert two.total > 1.2 * one.total


def test_more_stages_than_layers_is_one_line() -> None:
    with pytest.raises(ServesimError, match="32 layers cannot make 40 pipeline stages"):
        run(pipeline_parallel_size=40)
