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


MOE = {**SMALL, "model": {"id": "Qwen/Qwen3-30B-A3B"}}


def run_moe(model: dict[str, object] | None = None, **engine: object) -> Result:
    sections = {**MOE, "engine": {"max_model_len": 8192, **engine}}
    if model:
        sections["model"] = {"id": "Qwen/Qwen3-30B-A3B", **model}
    result = simulate(**sections)
    assert result.metrics.finished == 30
    return result


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("pp", [1, 2])
@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize("by_expert", [False, True])
def test_any_mix_runs(tp: int, pp: int, dp: int, by_expert: bool) -> None:
    result = run_moe(
        tensor_parallel_size=tp,
        pipeline_parallel_size=pp,
        data_parallel_size=dp,
        enable_expert_parallel=by_expert,
    )
    served = result.deployment.served[0]
    assert served.devices == tp * pp * dp
    assert len(served.engines) == dp
    ends = {tuple(one.steps.end_s) for one in result.records.instances}
    assert len(ends) == 1  # one wave


def test_dense_replicas_do_not_wait_for_each_other() -> None:
    result = run(data_parallel_size=2)
    first, second = result.records.instances
    assert list(first.steps.end_s) != list(second.steps.end_s)
    assert result.deployment.served[0].devices == 2


def test_skewed_experts_are_slower_and_replicas_help() -> None:
    parallel = {"data_parallel_size": 4, "enable_expert_parallel": True}
    skewed = {"expert_routing": {"kind": "zipf", "exponent": 1.2}}
    batch = {"rate": 1000, "num_requests": 30, "prompt_tokens": 2000, "output_tokens": 2}

    def ttft(model: dict[str, object], **engine: object) -> float:
        sections = {**MOE, "engine": {"max_model_len": 8192, **parallel, **engine}}
        sections["model"] = {"id": "Qwen/Qwen3-30B-A3B", **model}
        sections["workload"] = {**SMALL["workload"], **batch}  # type: ignore[dict-item]
        return simulate(**sections).metrics.ttft.mean

    even, uneven = ttft({}), ttft(skewed)
    balanced = ttft(skewed, enable_eplb=True, num_redundant_experts=32)
    assert even < balanced < uneven


def test_experts_of_a_dense_model_are_refused() -> None:
    with pytest.raises(ServesimError, match="has no experts"):
        run(enable_expert_parallel=True)
    with pytest.raises(ServesimError, match="do not divide among 3 ranks"):
        run_moe(data_parallel_size=3, enable_expert_parallel=True)
    with pytest.raises(ServesimError, match=r"joins 8; for more, give .hardware. a link"):
        run_moe(data_parallel_size=16, enable_expert_parallel=True)
    with pytest.raises(ServesimError, match="zipf"):
        run_moe({"expert_routing": {"kind": "zip"}})


@pytest.mark.parametrize("stages", [1, 2])
def test_shared_contexts_hold_more_tokens(stages: int) -> None:
    alone = run(pipeline_parallel_size=stages)
    result = run(pipeline_parallel_size=stages, prefill_context_parallel_size=2)
    before, after = (one.deployment.served[0] for one in (alone, result))
    assert after.devices == 2 * before.devices
    more = after.memory.kv_cache_tokens / before.memory.kv_cache_tokens
    assert more == pytest.approx(2, rel=0.01)
    assert result.metrics.ttft.mean < alone.metrics.ttft.mean


def test_decode_context_ranks_must_hold_the_same_heads() -> None:
    with pytest.raises(ServesimError, match="2 ranks hold 8 KV heads 1 times"):
        run(tensor_parallel_size=2, decode_context_parallel_size=2)
