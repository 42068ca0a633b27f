"""Attention and FFN of a graph taken apart, sharded each in its own way, and joined again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm, Part
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.norm import Norm
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.passes.attention_ffn import (
    ffn_keys,
    ffn_names,
    first_layer_apart,
    halves,
    joined,
)
from servesim.graph.passes.expert import ExpertOptions, spread_experts
from servesim.graph.shard import shard
from servesim.graph.work import CollectiveWork, GemmWork, MoeWork

WIDTH, INNER, LAYERS = 512, 2048, 6


def gemm(name: str, n: int, k: int, *reads: str) -> Op:
    return Op(name, Gemm(n=n, k=k, parts=(Part(name, n, n),)), reads)


MIXER = (
    Op("layernorm", Norm(WIDTH), (STREAM,)),
    gemm("qkv_proj", 768, WIDTH, "layernorm"),
    Op("attention", Attention(8, 2, 64, 64), ("qkv_proj",)),
    gemm("o_proj", WIDTH, WIDTH, "attention"),
)
NORM = Op("layernorm.2", Norm(WIDTH, addends=1), (STREAM, "o_proj"))


def mlp(reads: str) -> tuple[Op, ...]:
    return (
        gemm("gate_up_proj", 2 * INNER, WIDTH, reads),
        Op("act_fn", Pointwise("activation", 2 * INNER, INNER), ("gate_up_proj",)),
        gemm("down_proj", WIDTH, INNER, "act_fn"),
    )


MOE = (
    gemm("gate", 8, WIDTH, "layernorm.2"),
    Op("router", Pointwise("router", 8, 2), ("gate",)),
    Op("experts", Experts(8, 2, WIDTH, 256), ("layernorm.2", "router")),
)


def graph(*ops: Op) -> OpGraph:
    blocks = (
        Block("head", (gemm("embedding", WIDTH, WIDTH),)),
        Block("layer", ops, tuple(range(LAYERS))),
        Block("tail", (Op("lm_head", LmHead(4096, WIDTH), (STREAM,)),)),
    )
    made = OpGraph("toy", blocks, (), 0, 0, 0.0, WIDTH, 4096, 8192)
    return replace(made, weight_bytes=made.operator_weight_bytes + 1000.0)


DENSE, MIXTURE = graph(*MIXER, NORM, *mlp("layernorm.2")), graph(*MIXER, NORM, *MOE)


def rejoined(whole: OpGraph, ranks: int, devices: int, workers: int = 4) -> OpGraph:
    whole = first_layer_apart(whole)
    attention, ffn = halves(whole)
    ffn = spread_experts(
        shard(ffn, devices, enable_expert_parallel=devices > 1),
        ExpertOptions(enable_expert_parallel=devices > 1),
    )
    return joined(whole, shard(attention, ranks), ffn, workers)


def layer(made: OpGraph) -> dict[str, Op]:
    return {op.name: op for op in made.blocks[2].ops}


def test_what_is_not_attention_multiplies_in_the_ffn() -> None:
    assert ffn_names(DENSE.blocks[1]) == {"gate_up_proj", "act_fn", "down_proj"}
    assert ffn_names(MIXTURE.blocks[1]) == {"gate", "router", "experts"}
    assert ffn_names(DENSE.blocks[0]) == set()  # outside the layers


def test_an_ffn_beside_attention_and_a_norm_behind_it() -> None:
    beside = (*MIXER, *mlp("layernorm"))
    assert ffn_names(graph(*beside).blocks[1]) == {"gate_up_proj", "act_fn", "down_proj"}
    # The next layer reads the last operator's results: those of the FFN.
    order = (*mlp("layernorm"), *MIXER[1:])
    assert list(layer(rejoined(graph(MIXER[0], *order), 1, 1)))[-1] == "down_proj"
    last = Op("post_norm", Norm(WIDTH), ("down_proj",))
    made = rejoined(graph(*MIXER, NORM, *mlp("layernorm.2"), last), 2, 2)
    assert ("layer/rest", "post_norm") not in ffn_keys(made)
    assert layer(made)["post_norm"].inputs == ("ffn_all_reduce",)


def test_a_model_without_ffn_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no FFN"):
        halves(graph(*MIXER))


@pytest.mark.parametrize("whole", [DENSE, MIXTURE])
@pytest.mark.parametrize(("ranks", "devices"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_each_weight_is_on_one_side(whole: OpGraph, ranks: int, devices: int) -> None:
    attention, ffn = halves(whole)
    assert attention.weight_bytes + ffn.weight_bytes == whole.weight_bytes
    made = rejoined(whole, ranks, devices)
    assert made.num_layers == LAYERS
    keys = set(ffn_keys(made))
    there = sum(
        op.spec.weight_bytes * block.count
        for block in made.blocks
        for op in block.ops
        if (block.name, op.name) in keys
    )
    # A router is on every device; all else is divided.
    router = LAYERS * 8 * WIDTH * 2 if whole is MIXTURE else 0
    assert there * devices == ffn.weight_bytes + router * (devices - 1)


def test_one_rank_each_keeps_every_operator() -> None:
    made = rejoined(DENSE, 1, 1)
    assert tuple(layer(made)) == tuple(op.name for op in DENSE.blocks[1].ops)
    assert [op.inputs for op in layer(made).values()] == [op.inputs for op in DENSE.blocks[1].ops]


def test_the_batches_of_all_workers_meet_in_the_ffn() -> None:
    ops, moe = layer(rejoined(DENSE, 1, 2, workers=4)), layer(rejoined(MIXTURE, 1, 2, workers=4))
    batch = BatchShape(((10, 0),))  # of one worker, the others alike
    known = BatchShape(((10, 0),), group_tokens=25)  # what all have is known
    for op, shape, tokens in ((ops["down_proj"], batch, 40), (ops["down_proj"], known, 25)):
        work = op.work(shape)
        assert isinstance(work, GemmWork)
        assert work.m == tokens
    qkv, experts = ops["qkv_proj"].work(known), moe["experts"].work(known)
    assert isinstance(qkv, GemmWork) and isinstance(experts, MoeWork)
    assert qkv.m == 10
    assert experts.tokens == 25
    assert experts.experts == 4  # of 8, on two devices


def test_ffn_devices_gather_tokens_and_scatter_results() -> None:
    ops = layer(rejoined(DENSE, 2, 4, workers=3))
    there, back = ops["ffn_all_gather"], ops["ffn_all_reduce"]
    assert there.inputs == ("layernorm.2",)
    assert ops["gate_up_proj"].inputs == ("ffn_all_gather",)
    batch = BatchShape(((7, 0),))
    for op, operation in ((there, "all_gather"), (back, "reduce_scatter")):
        work = op.work(batch)
        assert isinstance(work, CollectiveWork)
        assert (work.operation, work.ranks, work.group) == (operation, 4, "ffn")
        assert work.payload_bytes == 3 * 7 * WIDTH * 2
    own = ops["all_reduce"].work(batch)
    assert isinstance(own, CollectiveWork)
    assert (own.ranks, own.payload_bytes) == (2, 7 * WIDTH * 2)
