import pytest

from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.gemm import Gemm, Part
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.norm import Norm
from servesim.graph.ops.sampler import Sampler


@pytest.fixture
def graph():
    """Two layers of a toy model; ``up`` and ``again`` are one kernel under two names."""
    ops = (
        Op("norm", Norm(64, addends=1, weights=64), (STREAM,)),
        Op("up", Gemm(128, 64, parts=(Part("up", 128, 128),)), ("norm",)),
        Op("again", Gemm(128, 64, parts=(Part("again", 128, 128),)), ("up",)),
        Op("attention", Attention(4, 2, 16, 16), ("again",)),
    )
    tail = (Op("lm_head", LmHead(1000, 64), (STREAM,)), Op("sampler", Sampler(1000), ("lm_head",)))
    blocks = (Block("layer", ops, (0, 1)), Block("tail", tail))
    return OpGraph("toy", blocks, (), 0, 0, 0.0, 64, 1000, 4096)
