"""Small graphs made by hand, with weights that can be counted on paper."""

from __future__ import annotations

from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block, CacheGroup, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm, Part
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.pointwise import Pointwise

HIDDEN, VOCAB, INTERMEDIATE = 512, 4096, 2048


def linear(name: str, source: str, n: int, k: int, reads: str) -> Op:
    spec = Gemm(n=n, k=k, parts=(Part(source, n, n),))
    return Op(name, spec, (reads,), source)


def layer_ops(moe: bool) -> tuple[Op, ...]:
    """8 query and 2 KV heads of 64; a gated MLP, or 4 gated experts of 256 behind a router."""
    attention = (
        linear("qkv_proj", "self_attn.q_proj", 768, HIDDEN, STREAM),
        Op("attention", Attention(8, 2, 64, 64), ("qkv_proj",), "self_attn"),
        linear("o_proj", "self_attn.o_proj", HIDDEN, HIDDEN, "attention"),
    )
    if moe:
        router = linear("router", "mlp.gate", 4, HIDDEN, "o_proj")
        experts = Experts(experts=4, top_k=2, hidden=HIDDEN, intermediate=256)
        return (*attention, router, Op("experts", experts, ("router",), "mlp.experts"))
    return (
        *attention,
        linear("gate_up_proj", "mlp.gate_proj", 2 * INTERMEDIATE, HIDDEN, "o_proj"),
        Op(
            "act_fn",
            Pointwise("activation", 2 * INTERMEDIATE, INTERMEDIATE),
            ("gate_up_proj",),
            "mlp",
        ),
        linear("down_proj", "mlp.down_proj", HIDDEN, INTERMEDIATE, "act_fn"),
    )


def model(layers: int = 4, moe: bool = False, caches: tuple[CacheGroup, ...] = ()) -> OpGraph:
    """Embedding, equal layers, LM head, in bf16; KV of 2 heads x 64 x 2 in 16 bits a layer."""
    indices = tuple(range(layers))
    blocks = (
        Block("head", (Op("embedding", Embedding(VOCAB, HIDDEN)),)),
        Block("layer", layer_ops(moe), indices),
        Block("tail", (Op("lm_head", LmHead(VOCAB, HIDDEN), (STREAM,)),)),
    )
    weights = sum(op.spec.weight_bytes * b.count for b in blocks for op in b.ops)
    return OpGraph(
        model="small",
        blocks=blocks,
        caches=caches or (CacheGroup("full", indices, 512.0),),
        parameters=int(weights / 2),
        active_parameters=int(weights / 2),
        weight_bytes=weights,
        hidden_size=HIDDEN,
        vocab_size=VOCAB,
        max_model_len=8192,
    )
