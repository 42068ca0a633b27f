"""Recorded forward passes seen through ``torch.fx``."""

from __future__ import annotations

import torch

from servesim.graph.trace.capture import record_prefill
from servesim.graph.trace.fx_view import to_fx
from servesim.models.build import build_model

TINY = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 100,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def test_nodes_edges_and_operators_are_the_recorded_ones() -> None:
    trace, _ = record_prefill(build_model(TINY, "bf16"), fold=False)
    graph = to_fx(trace)
    *nodes, output = graph.nodes
    assert len(nodes) == len(trace.nodes)
    assert output.op == "output"
    position = {node: index for index, node in enumerate(nodes)}
    rank = {i: index for index, i in enumerate(trace.nodes)}
    for seen, node in zip(nodes, trace, strict=True):
        if not node.is_leaf:
            assert [position[n] for n in seen.args] == [rank[i] for i in node.inputs]
        assert seen.meta["shape"] == node.shape
    targets = [node.target for node in nodes]
    assert torch.ops.aten.silu.default in targets
    names = [getattr(target, "__name__", target) for target in targets]
    assert names.count("attention") == 2
    assert "model.layers.1.mlp.down_proj.weight" in names
