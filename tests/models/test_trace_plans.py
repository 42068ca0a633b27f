"""Inferred sharding against the tensor-parallel plans that ``transformers`` ships."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from servesim.graph.opgraph import OpGraph
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.latent_expand import LatentExpand
from servesim.graph.shard import shard
from servesim.models.build_coverage import trace_type

TYPES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next",
    "deepseek_v2", "deepseek_v3", "gemma", "gemma2", "gemma3_text", "gpt_oss", "glm", "glm4",
    "glm4_moe", "phi", "phi3", "olmo", "olmo2", "olmo3", "olmoe", "cohere", "cohere2", "granite",
    "helium", "starcoder2", "smollm3", "seed_oss", "ernie4_5", "exaone4", "dots1", "minimax_m2",
    "hunyuan_v1_dense", "nemotron", "gpt_neox", "stablelm", "apertus", "arcee",
)  # fmt: skip

#: Where the plan gathers what vLLM keeps split: it replicates the recurrence, vLLM shards it.
GATHERED = "colwise_gather_output"


def linears(graph: OpGraph) -> Iterator[tuple[str, str]]:
    """Path below its layer, and how it is split, of every linear layer."""
    for block in graph.blocks:
        for op in block.ops:
            if block.layers and isinstance(op.spec, Gemm):
                yield from ((part.source, op.spec.parallel) for part in op.spec.parts)
            elif block.layers and isinstance(op.spec, LatentExpand):
                yield op.spec.source, op.spec.parallel


def planned(plan: dict[str, str], source: str) -> str | None:
    """``column`` or ``row`` for a linear layer the plan splits."""
    for pattern, style in plan.items():
        layer = pattern.removeprefix("layers.*.")
        matches = re.fullmatch(re.escape(layer).replace(r"\\*", "[0-9]+"), source)
        if matches and layer != pattern:
            if style == GATHERED and source.endswith("out_proj"):
                return None
            return "column" if "colwise" in style else "row" if "rowwise" in style else None
    return None


@pytest.mark.parametrize("model_type", TYPES)
def test_agrees_with_the_plan(model_type: str) -> None:
    traced = trace_type(model_type)
    config: Any = traced.model.config
    plan: dict[str, str] = config.get_text_config(decoder=True).base_model_tp_plan or {}
    found = dict(linears(shard(traced.graph, 2)))
    wanted = {source: planned(plan, source) for source in found}
    split = {source: style for source, style in wanted.items() if style}
    assert split == {source: found[source] for source in split}
    if plan:
        assert split
