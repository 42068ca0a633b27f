"""Arithmetic of the graph against torch's own flop counter on the running model."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from servesim.graph.batch import BatchShape
from servesim.graph.opgraph import OpGraph
from servesim.graph.trace.capture import BATCH, TOKENS, record_prefill
from servesim.models.build import build_model, quiet
from servesim.models.build_graph import trace_module
from servesim.models.config import resolve

MODELS = (
    "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen3-30B-A3B",
    "mistralai/Mixtral-8x7B-v0.1",
    "deepseek-ai/DeepSeek-V2-Lite",
    "google/gemma-2-9b",
    "openai/gpt-oss-20b",
    "openai-community/gpt2",
)


def torch_flops(model: Any) -> float:
    """Attention is recorded whole and uncounted; experts run as batched products, which count."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._experts_implementation = "batched_mm"
    with FlopCounterMode(display=False) as counter, quiet():
        record_prefill(model, fold=False)
    return float(counter.get_total_flops())


def matrix_flops(graph: OpGraph) -> float:
    batch = BatchShape(prefills=((TOKENS, 0),) * BATCH)
    works = ((op.work(batch), count) for op, count in graph.weighted_ops() if op.runs(batch))
    return sum(count * work.flops for work, count in works if work.family in {"gemm", "moe"})


@pytest.mark.parametrize("name", MODELS)
def test_equal_to_torch(name: str) -> None:
    model = build_model(resolve(name).values, "bf16")
    graph = trace_module(model, name, "bf16").graph
    assert matrix_flops(graph) == torch_flops(model)
