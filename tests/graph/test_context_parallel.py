"""The KV cache shared by tokens: what each rank keeps, reads and sends."""

from __future__ import annotations

import numpy as np
import pytest

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.opgraph import OpGraph
from servesim.graph.ops.context import ContextExchange, SharedAttention
from servesim.graph.passes.context import kv_heads, share_context
from servesim.hardware.load import load_device
from servesim.hardware.placement import Placement
from servesim.models.load import load_graph
from servesim.runtime.parallel.shares import PrefillShareStepModel, share_of_prefills
from servesim.runtime.step_model import CompiledStepModel

LLAMA = "meta-llama/Llama-3.2-1B"  # 32 heads of 64, 8 KV heads
DECODES = BatchShape((), 4, 4000, 1500, np.array([1500, 1000, 1000, 500]))


def attention(graph: OpGraph, batch: BatchShape) -> tuple[float, float]:
    """FLOP of attention and bytes of exchanges of a step."""
    flops = sent = 0.0
    for op, count in graph.weighted_ops():
        if not op.runs(batch):
            continue
        if op.kind == "attention":
            flops += count * op.work(batch).flops
        if isinstance(op.spec, ContextExchange):
            sent += count * op.work(batch).bytes_read
    return flops, sent


def test_ranks_that_would_hold_the_same_heads_share_their_tokens() -> None:
    alone = load_graph(LLAMA, tensor_parallel_size=16)  # each KV head on two ranks
    shared = share_context(alone, 2, total_kv_heads=kv_heads(load_graph(LLAMA)))
    assert shared.kv_bytes_per_token == alone.kv_bytes_per_token / 2
    before, after = attention(alone, DECODES), attention(shared, DECODES)
    assert after[0] == pytest.approx(before[0])  # twice the heads, half of the keys
    # Queries of both ranks (4 heads of 64), results with their sums (65), 16 layers, 4 tokens.
    assert after[1] == 16 * 4 * 4 * (64 + 65) * 2
    prompt = BatchShape.of_tokens(100)
    assert attention(shared, prompt) == (attention(alone, prompt)[0], 0.0)


def test_shared_keys_take_a_decode_less_time() -> None:
    device = load_device("h100_sxm")
    batch = BatchShape((), 64, 64 * 30_000, 30_000)
    times = []
    for ranks in (1, 4):
        graph = share_context(load_graph(LLAMA), 1, ranks)
        model = CompiledStepModel.compile(Placement.tensor_parallel(graph, device))
        times.append(model.seconds(batch))
        fast = model.decode_seconds(64, 64 * 30_000, 30_000)
        assert fast == pytest.approx(model.seconds(batch))
    assert times[1] < 0.5 * times[0]


def test_prompts_are_shared_evenly() -> None:
    batch = BatchShape(((1000, 200), (9, 0)), 3, 300, 100)
    own = share_of_prefills(batch, 4)
    assert [new for new, _ in own.prefills] == [250, 3]
    assert (own.decodes, own.decode_context) == (3, 300)
    pairs = [
        sum(new * context + new * (new + 1) / 2 for new, context in one.prefills)
        for one in (batch, own)
    ]
    assert 4 * pairs[1] == pytest.approx(pairs[0], rel=0.01)


def test_a_long_prompt_takes_a_share_of_its_time() -> None:
    device = load_device("h100_sxm")
    prompt = BatchShape.of_tokens(32_768)
    alone = CompiledStepModel.compile(Placement.tensor_parallel(load_graph(LLAMA), device))
    graph = share_context(load_graph(LLAMA), 1, 4)
    shared = PrefillShareStepModel(Placement.tensor_parallel(graph, device), prefill_ranks=4)
    assert alone.seconds(prompt) / 4 < shared.seconds(prompt) < alone.seconds(prompt) / 2.5
    rows = shared.cost_breakdown(prompt)
    assert sum(row.seconds for row in rows) == pytest.approx(shared.seconds(prompt))
    assert any(row.label == "context_kv_gather" for row in rows)


def test_latent_attention_shares_its_one_head() -> None:
    alone = load_graph("deepseek-ai/DeepSeek-V2-Lite", tensor_parallel_size=4)
    shared = share_context(alone, 4)
    assert shared.kv_bytes_per_token == alone.kv_bytes_per_token / 4
    specs = [op.spec for op, _ in shared.weighted_ops() if isinstance(op.spec, SharedAttention)]
    assert specs
    assert all(spec.heads == 16 for spec in specs)


@pytest.mark.parametrize(
    ("model", "tp", "dcp", "message"),
    [
        (LLAMA, 2, 2, "2 ranks hold 8 KV heads 1 times"),
        (LLAMA, 16, 3, "does not divide tensor_parallel_size 16"),
        ("google/gemma-2-2b", 1, 1, "limits its attention"),
        ("state-spaces/mamba-130m-hf", 1, 1, "recurrent states"),
    ],
)
def test_what_cannot_be_shared_is_refused(model: str, tp: int, dcp: int, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        graph = load_graph(model, tensor_parallel_size=tp)
        share_context(graph, dcp, 2, total_kv_heads=kv_heads(load_graph(model)))
