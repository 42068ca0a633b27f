"""Tensor parallelism: what is split, what is held by all, and which collectives that takes."""

from __future__ import annotations

import pytest

from servesim.errors import InputError, UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.graph.shard import shard
from servesim.models.load import load_graph


def names(graph: OpGraph, block: int) -> list[str]:
    return [op.name for op in graph.blocks[block].ops]


def shapes(graph: OpGraph) -> dict[str, tuple[int, ...]]:
    return {op.name: op.spec.shape for block in graph.blocks for op in block.ops}


def test_llama_on_four_ranks() -> None:
    local = shard(load_graph("meta-llama/Llama-3.1-8B"), 4)
    assert names(local, 0) == ["embedding", "all_reduce"]
    assert names(local, 1) == [
        "layernorm", "qkv_proj", "rotary_emb", "attention", "o_proj", "all_reduce",
        "layernorm.2", "gate_up_proj", "act_fn", "down_proj", "all_reduce.2",
    ]  # fmt: skip
    assert names(local, 2) == ["final_layernorm", "lm_head", "logits_all_gather", "sampler"]
    sizes = shapes(local)
    assert sizes["qkv_proj"] == (6144 // 4, 4096)
    assert sizes["attention"] == (8, 2, 128, 128)
    assert sizes["o_proj"] == (4096, 1024)
    assert sizes["down_proj"] == (4096, 14336 // 4)
    assert sizes["lm_head"] == (128256 // 4, 4096)
    assert local.kv_bytes_per_token == 32 * 2 * 2 * 128 * 2


def test_fewer_kv_heads_than_ranks_are_held_by_several() -> None:
    graph = load_graph("meta-llama/Llama-3.1-8B")
    local = shard(graph, 16)
    assert shapes(local)["attention"] == (2, 1, 128, 128)
    assert shapes(local)["qkv_proj"] == ((2 + 1 + 1) * 128, 4096)
    assert local.kv_bytes_per_token == graph.kv_bytes_per_token / 8


def test_experts_and_shared_experts_share_one_all_reduce() -> None:
    local = shard(load_graph("deepseek-ai/DeepSeek-V3"), 8)
    layer = local.blocks[2]
    by_name = {op.name: op for op in layer.ops}
    assert by_name["all_reduce.2"].inputs == ("experts", "shared_experts.down_proj")
    assert by_name["experts"].spec.shape == (256, 8, 7168, 2048 // 8)
    assert by_name["fused_qkv_a_proj"].spec.shape == (2112, 7168)
    assert by_name["q_b_proj"].spec.shape == (24576 // 8, 1536)
    assert by_name["attention"].spec.shape == (16, 1, 576, 512)
    assert by_name["gate"].spec.shape == (256, 7168)
    assert local.kv_bytes_per_token == 61 * 1152


def test_a_norm_over_all_heads_gathers_them_first() -> None:
    local = shard(load_graph("allenai/OLMo-2-1124-7B"), 2)
    by_name = {op.name: op for op in local.blocks[1].ops}
    assert by_name["q_norm"].inputs == ("all_gather",)
    assert by_name["k_norm"].inputs == ("all_gather.2",)
    assert by_name["all_gather"].spec.shape == by_name["q_norm"].spec.shape[1:] == (4096,)
    assert by_name["attention"].spec.shape == (16, 16, 128, 128)


def test_recurrent_mixers_split_by_heads() -> None:
    graph = load_graph("Qwen/Qwen3-Next-80B-A3B-Instruct")
    local = shard(graph, 2)
    assert local.state_bytes_per_sequence == graph.state_bytes_per_sequence / 2
    heads = {op.spec.shape for op, _ in local.weighted_ops() if op.kind == "recurrent"}
    assert (16, 128, 128) in heads


def test_heads_that_do_not_divide() -> None:
    graph = load_graph("tiiuae/falcon-7b")
    with pytest.raises(UnsupportedError, match="71 do not divide among 2"):
        shard(graph, 2)


def test_bad_sizes() -> None:
    graph = load_graph("meta-llama/Llama-3.1-8B")
    with pytest.raises(InputError, match="at least 1, not 0"):
        shard(graph, 0)
    with pytest.raises(InputError, match="already sharded 2 ways"):
        shard(shard(graph, 2), 2)
    assert shard(graph, 1) is graph


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("model", ["Qwen/Qwen3-32B", "mistralai/Mixtral-8x7B-v0.1"])
def test_ranks_together_do_the_whole_work(model: str, ranks: int) -> None:
    """GEMMs and experts of all ranks add up, but for what every rank repeats."""
    from servesim.graph.summary import flops_per_token

    graph = load_graph(model)
    local = shard(graph, ranks)
    repeated = sum(
        2.0 * op.spec.shape[0] * op.spec.shape[1] * count
        for op, count in graph.weighted_ops()
        if op.name == "gate"
    )
    together = ranks * flops_per_token(local)
    assert together == pytest.approx(flops_per_token(graph) + (ranks - 1) * repeated)
