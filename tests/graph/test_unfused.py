"""Operators as a model's own modules run them, in continuous batching without paged kernels."""

from __future__ import annotations

import numpy as np
import pytest

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.unfuse import unfuse
from servesim.models.load import load_graph

LLAMA = "meta-llama/Llama-3.2-1B"  # 32 heads of 64, 8 KV heads, width 2048, FFN 8192
#: Two decodes after 10 and 20 tokens, and the first three tokens of a prompt.
BATCH = BatchShape(((3, 0),), 2, 30, 20, np.array([10, 20]))


@pytest.fixture(scope="module")
def graph() -> OpGraph:
    return load_graph(LLAMA)


def layer(graph: OpGraph) -> dict[str, Op]:
    block = next(block for block in graph.blocks if block.layers)
    return {op.name: op for op in block.ops}


def test_linear_layers_run_one_by_one_and_hold_the_same_weights(graph: OpGraph) -> None:
    ops = layer(unfuse(graph))
    assert {name: op.spec.shape for name, op in ops.items() if op.kind == "gemm"} == {
        "q_proj": (2048, 2048),
        "k_proj": (512, 2048),
        "v_proj": (512, 2048),
        "o_proj": (2048, 2048),
        "gate_proj": (8192, 2048),
        "up_proj": (8192, 2048),
        "down_proj": (2048, 8192),
    }
    weights = [sum(op.spec.weight_bytes * n for op, n in g.weighted_ops()) for g in (graph,)]
    assert weights == [sum(op.spec.weight_bytes * n for op, n in unfuse(graph).weighted_ops())]


def test_every_new_token_meets_the_keys_of_all_sequences(graph: OpGraph) -> None:
    work = layer(unfuse(graph))["attention"].work(BATCH)
    # 5 new tokens under a mask of 5 by 35: 4 FLOP a pair, head and element of 64
    assert work.flops == 4 * 32 * 64 * 5 * 35
    paged = layer(graph)["attention"].work(BATCH)
    assert paged.flops == 4 * 32 * 64 * (11 + 21 + 1 + 2 + 3)


def test_one_decode_alone_costs_what_paged_attention_does(graph: OpGraph) -> None:
    alone = BatchShape((), 1, 40, 40, np.array([40]))
    assert layer(unfuse(graph))["attention"].work(alone).flops == 4 * 32 * 64 * 41


def test_keys_are_gathered_and_repeated_for_each_head(graph: OpGraph) -> None:
    ops = layer(unfuse(graph))
    gather, repeat = ops["attention_gather"].work(BATCH), ops["attention_repeat"].work(BATCH)
    each = 35 * 2 * 64 * 2  # keys, K and V, elements, bytes
    assert (gather.bytes_read, gather.bytes_written) == (8 * each, 8 * each)
    assert (repeat.bytes_read, repeat.bytes_written) == (8 * each, 32 * each)


def test_windows_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="not full attention"):
        unfuse(load_graph("google/gemma-3-1b-it"))
