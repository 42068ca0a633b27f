"""Speculative decoding from scenario to result."""

from __future__ import annotations

import pytest

from servesim import Result, simulate
from servesim.errors import ServesimError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.passes.draft_head import draft_head
from servesim.models.config import resolve
from servesim.models.load import load_graph
from servesim.runtime.config import EngineConfig
from servesim.runtime.speculative_step import SpeculativeStepModel
from servesim.scenario.speculation import drafter_of

BASE = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100_sxm",
    "workload": {"kind": "poisson", "rate": 1, "num_requests": 10, "prompt_tokens": 300,
                 "output_tokens": 100},
}  # fmt: skip


def run(speculative: dict[str, object] | None = None, **more: object) -> Result:
    engine = {"max_model_len": 8192, "speculative_config": speculative, **more}
    if speculative is None:
        del engine["speculative_config"]
    result = simulate(**{**BASE, "engine": engine})
    assert result.metrics.finished == 10
    return result


def test_right_drafts_save_time_and_wrong_ones_cost_it() -> None:
    plain = run().metrics.tpot.mean
    right = run({"method": "ngram_gpu", "acceptance_rate": 0.9}).metrics.tpot.mean
    wrong = run({"method": "eagle", "acceptance_rate": 0.0}).metrics.tpot.mean
    # A step of 4 tokens a sequence reads the same weights; 3.44 tokens of it are kept.
    assert right == pytest.approx(plain / 3.439, rel=0.1)
    assert wrong > 1.05 * plain


def test_a_draft_model_takes_its_passes_and_its_memory() -> None:
    draft = {
        "method": "draft_model", "model": "meta-llama/Llama-3.2-1B", "num_speculative_tokens": 2,
    }  # fmt: skip
    plain, result = run(), run(draft)
    served = result.deployment.served[0]
    model = served.step_model
    assert isinstance(model, SpeculativeStepModel)
    assert model.drafter is not None
    batch = BatchShape((), 4, 400, 100, drafts=2)
    verify, first = model.target.seconds(batch), model.drafter.seconds(batch)
    second = model.drafter.seconds(BatchShape((), 4, 400, 100))
    assert model.seconds(batch) == pytest.approx(verify + first + second)
    assert model.decode_seconds(4, 400, 100) == model.seconds(batch)
    # Fewer are verified than will be made, be it none.
    for drafts in (0, 1):
        fewer = BatchShape((), 4, 400, 100, drafts=drafts)
        expected = model.target.seconds(fewer) + model.drafter.seconds(fewer) + second
        assert model.seconds(fewer) == pytest.approx(expected)
    rows = model.cost_breakdown(batch)
    assert sum(row.seconds for row in rows) == pytest.approx(model.seconds(batch))
    small = load_graph("meta-llama/Llama-3.2-1B")
    before, after = plain.deployment.served[0].memory, served.memory
    assert after.weight_bytes == pytest.approx(before.weight_bytes + small.weight_bytes, rel=1e-3)
    assert after.kv_cache_tokens < before.kv_cache_tokens


def test_a_head_is_one_layer_and_a_fusion() -> None:
    graph = load_graph("meta-llama/Llama-3.1-8B")
    head = draft_head(graph)
    head.lint()
    layer = sum(op.spec.weight_bytes for block in graph.blocks if block.layers for op in block.ops)
    outside = 2 * 4096 * 4096 * 2 + 4096 * 2  # fusion, final norm
    assert head.weight_bytes == layer + outside
    assert head.kv_bytes_per_token == graph.kv_bytes_per_token / 32


def test_speculation_goes_with_waves() -> None:
    engine = {
        "max_model_len": 4096, "data_parallel_size": 2, "enable_expert_parallel": True,
        "speculative_config": {"method": "eagle", "num_speculative_tokens": 1},
    }  # fmt: skip
    result = simulate(**{**BASE, "model": "Qwen/Qwen3-30B-A3B", "engine": engine})
    assert result.metrics.finished == 10


def test_only_models_with_layers_for_it_predict_many_tokens() -> None:
    mtp = EngineConfig(speculative_config={"method": "mtp", "num_speculative_tokens": 1})
    graph = load_graph("meta-llama/Llama-3.2-1B")
    for name in ("deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-Next-80B-A3B-Instruct"):
        assert drafter_of(mtp, graph, resolve(name)) is not None
    for name in ("meta-llama/Llama-3.2-1B", "moonshotai/Kimi-K2-Instruct"):
        with pytest.raises(UnsupportedError, match=f"{name} has no layers for method mtp"):
            drafter_of(mtp, graph, resolve(name))


def test_a_pipeline_does_not_speculate() -> None:
    with pytest.raises(ServesimError, match="pipeline_parallel_size"):
        run({"method": "ngram"}, pipeline_parallel_size=2)
    with pytest.raises(ServesimError, match=r"speculative_config.*'methd'"):
        run({"methd": "ngram"})
