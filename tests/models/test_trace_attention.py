"""Attention of every kind, and what layers keep, by hand from the checkpoints' configs."""

from __future__ import annotations

import json
from pathlib import Path

from servesim.graph.opgraph import OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.recurrent import Recurrent
from servesim.models.build_coverage import trace_type
from servesim.models.load import load_graph


def attentions(graph: OpGraph) -> list[tuple[int, Attention]]:
    """Layers and parameters of each attention operator."""
    return [
        (block.count, op.spec)
        for block in graph.blocks
        for op in block.ops
        if isinstance(op.spec, Attention)
    ]


def caches(graph: OpGraph) -> list[tuple[str, int, float, int | None, float]]:
    return [
        (c.kind, len(c.layers), c.bytes_per_token, c.window, c.state_bytes) for c in graph.caches
    ]


def test_sliding_and_full_layers_with_soft_caps() -> None:
    graph = load_graph("google/gemma-2-9b")
    (few, window), (rest, full) = attentions(graph)
    assert (few, window.window, rest, full.window) == (21, 4096, 21, None)
    assert window.softcap == full.softcap == 50.0
    assert window.scale == 256**-0.5
    width = 2 * 8 * 256 * 2.0
    assert caches(graph) == [("window", 21, width, 4096, 0.0), ("full", 21, width, None, 0.0)]


def test_five_windows_to_one() -> None:
    graph = load_graph("google/gemma-3-27b-it")
    assert [(n, a.window) for n, a in attentions(graph)] == [(52, 1024), (10, None)]


def test_sinks() -> None:
    graph = load_graph("openai/gpt-oss-20b")
    assert [(n, a.window, a.sinks, a.weights) for n, a in attentions(graph)] == [
        (12, 128, True, 64),
        (12, None, True, 64),
    ]


def test_chunks() -> None:
    graph = load_graph("meta-llama/Llama-4-Scout-17B-16E-Instruct")
    assert sorted((n, a.chunk or 0) for n, a in attentions(graph)) == [(12, 0), (36, 8192)]


def test_latent_attention() -> None:
    graph = load_graph("deepseek-ai/DeepSeek-V3")
    prefill, decode = attentions(graph)[0][1], attentions(graph)[1][1]
    assert prefill.shape == (128, 128, 128 + 64, 128)
    assert decode.shape == (128, 1, 512 + 64, 512)
    assert (prefill.phase, decode.phase, decode.latent) == ("prefill", "decode", True)
    assert caches(graph) == [("latent", 61, (512 + 64) * 2.0, None, 0.0)]


def test_keys_chosen_by_an_indexer() -> None:
    graph = trace_type("deepseek_v32").graph
    assert {a.selected for _, a in attentions(graph)} == {2048}
    assert ("indexer", (64, 128)) in {(op.name, op.spec.shape) for op, _ in graph.weighted_ops()}
    assert caches(graph) == [("latent", 61, (512 + 64 + 128) * 2.0, None, 0.0)]


def test_keys_and_values_of_another_layer() -> None:
    graph = trace_type("gemma3n_text").graph
    shared = sum(n for n, a in attentions(graph) if a.shared_kv)
    assert (graph.num_layers, shared) == (35, 15)
    assert sum(layers for _, layers, *_ in caches(graph)) == 20


def test_gated_delta_net() -> None:
    graph = load_graph("Qwen/Qwen3-Next-80B-A3B-Instruct")
    convolution = (2 * 16 * 128 + 32 * 128) * 4 * 2
    recurrent = 32 * 128 * 128 * 4
    assert caches(graph) == [
        ("state", 36, 0.0, None, convolution + recurrent),
        ("full", 12, 2 * 2 * 256 * 2.0, None, 0.0),
    ]
    kinds = {(op.spec.recurrence, op.spec.heads) for op, _ in graph.weighted_ops()
             if isinstance(op.spec, Recurrent)}  # fmt: skip
    assert kinds == {("short_conv", 2 * 16 * 128 + 32 * 128), ("gated_delta", 32)}


def test_selective_scan() -> None:
    graph = load_graph("state-spaces/mamba-2.8b-hf")
    channels = 2 * 2560
    assert caches(graph) == [("state", 64, 0.0, None, channels * 4 * 2 + channels * 16 * 4)]
    assert graph.kv_bytes_per_token == 0


def test_hybrid_of_scan_attention_and_experts() -> None:
    graph = load_graph("ai21labs/Jamba-v0.1")
    assert [(kind, layers) for kind, layers, *_ in caches(graph)] == [("state", 28), ("full", 4)]
    assert graph.kv_bytes_per_token == 4 * 2 * 8 * 128 * 2


def test_keys_repeated_before_caching_count_once() -> None:
    graph = load_graph("tiiuae/falcon-40b")
    assert caches(graph) == [("full", 60, 2 * 8 * 64 * 2.0, None, 0.0)]


def test_one_key_head() -> None:
    assert caches(load_graph("tiiuae/falcon-7b")) == [("full", 32, 2 * 64 * 2.0, None, 0.0)]


def test_linear_attention_spelled_out() -> None:
    """MiniMax: 64 heads' K x V state, which its code keeps outside the usual cache."""
    graph = trace_type("minimax").graph
    state = next(op.spec for op, _ in graph.weighted_ops() if isinstance(op.spec, Recurrent))
    heads, width = state.heads, state.key_dim
    assert (state.recurrence, state.value_dim) == ("linear_attention", width)
    assert state.flops_per_token == heads * (4 * width**2 + 64 * 2 * width)
    assert ("state", 16, 0.0, None, heads * width**2 * 2.0) in caches(graph)


def test_a_window_as_long_as_the_context_is_none(tmp_path: Path) -> None:
    values = {
        "model_type": "phi3", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 100,
        "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "max_position_embeddings": 1024,
    }  # fmt: skip
    for window, kept in ((1024, None), (1023, 1023)):
        (tmp_path / "config.json").write_text(json.dumps(values | {"sliding_window": window}))
        graph = load_graph(str(tmp_path))
        assert [a.window for _, a in attentions(graph)] == [kept]
        assert [(c.kind, c.window) for c in graph.caches] == [("window" if kept else "full", kept)]
