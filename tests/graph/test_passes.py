"""The rewrite passes on small graphs written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from servesim.graph.ir import Node, TraceGraph
from servesim.graph.passes.dead import drop_dead
from servesim.graph.passes.fuse import fuse_glue
from servesim.graph.passes.linear_attention import collapse_linear_attention
from servesim.graph.passes.merge_gemms import merge_gemms
from servesim.graph.passes.norms import collapse_norms
from servesim.graph.passes.raw_attention import collapse_raw_attention
from servesim.graph.passes.simplify import simplify


class Builder:
    """Writes a graph of two sequences of three tokens, one node a call."""

    def __init__(self) -> None:
        self.graph = TraceGraph(2, 3)
        self.x = self.node("input", (), (2, 3))
        table = self.parameter("embed.weight", (100, 8))
        self.hidden = self.node("embedding", (self.x, table), (2, 3, 8))

    def node(
        self, target: str, inputs: tuple[int, ...], shape: tuple[int, ...], **attrs: Any
    ) -> int:
        index = len(self.graph.nodes)
        layer = None if target in {"input", "embedding"} else 0
        attrs.setdefault("args", [])
        node = Node(index, target, inputs, shape, layer=layer, scope="layers.0.mod", attrs=attrs)
        self.graph.nodes[index] = node
        return index

    def parameter(self, name: str, shape: tuple[int, ...]) -> int:
        return self.node("parameter", (), shape, name=name)

    def linear(self, source: int, name: str, width: int, k: int = 8) -> int:
        weight = self.parameter(f"{name}.weight", (width, k))
        return self.node("linear", (source, weight), (2, 3, width))

    def targets(self) -> list[str]:
        return [n.target for n in self.graph]


def rms_norm(b: Builder, x: int, name: str) -> int:
    weight = b.parameter(f"{name}.weight", (8,))
    squared = b.node("aten.pow.Tensor_Scalar", (x,), (2, 3, 8))
    mean = b.node("aten.mean.dim", (squared,), (2, 3, 1))
    root = b.node("aten.rsqrt.default", (b.node("aten.add.Tensor", (mean,), (2, 3, 1)),), (2, 3, 1))
    scaled = b.node("aten.mul.Tensor", (x, root), (2, 3, 8))
    return b.node("aten.mul.Tensor", (weight, scaled), (2, 3, 8))


def test_simplify_drops_views_and_what_tokens_do_not_touch() -> None:
    b = Builder()
    cos = b.node("aten.cos.default", (b.node("aten.arange.default", (), (3,)),), (3,))
    viewed = b.node("aten.view.default", (b.hidden,), (6, 8))
    b.node("aten.mul.Tensor", (viewed, cos), (6, 8))
    simplify(b.graph)
    b.graph.lint()
    assert b.targets() == ["input", "embedding", "aten.mul.Tensor"]
    product = list(b.graph)[-1]
    assert product.inputs == (b.hidden,)
    assert product.attrs["positional"]
    assert b.graph.nodes[b.hidden].attrs["parameters"] == {"embed.weight": 800}


def test_norms_collapse_with_their_weight() -> None:
    b = Builder()
    b.linear(rms_norm(b, b.hidden, "norm"), "q", 4)
    simplify(b.graph)
    collapse_norms(b.graph)
    b.graph.lint()
    assert b.targets() == ["input", "embedding", "norm", "linear"]
    norm = next(n for n in b.graph if n.target == "norm")
    assert (norm.attrs["width"], norm.attrs["groups"]) == (8, 1)
    assert norm.attrs["parameters"] == {"norm.weight": 8}


def test_a_norm_stops_where_others_read_it() -> None:
    b = Builder()
    normed = rms_norm(b, b.hidden, "norm")
    b.linear(normed, "q", 4)
    b.linear(b.node("aten.mul.Tensor", (normed,), (2, 3, 8)), "scaled", 4)
    simplify(b.graph)
    collapse_norms(b.graph)
    assert b.targets() == ["input", "embedding", "norm", "linear", "aten.mul.Tensor", "linear"]


def test_projections_merge_by_what_they_serve() -> None:
    b = Builder()
    q, k, v = (b.linear(b.hidden, name, 8) for name in "qkv")
    attention = b.node("attention", (q, k, v), (2, 3, 8), heads=2)
    b.linear(attention, "o", 8)
    gate, up = b.linear(b.hidden, "gate", 16), b.linear(b.hidden, "up", 16)
    product = b.node(
        "aten.mul.Tensor", (b.node("aten.silu.default", (gate,), (2, 3, 16)), up), (2, 3, 16)
    )
    b.linear(product, "down", 8, 16)
    simplify(b.graph)
    merge_gemms(b.graph)
    fuse_glue(b.graph)
    b.graph.lint()
    widths = {tuple(m[1] for m in n.attrs["members"]) for n in b.graph if n.target == "linear"}
    assert widths == {(8, 8, 8), (8,), (16, 16)}
    activation = next(n for n in b.graph if n.target == "activation")
    assert (activation.attrs["reads"], activation.attrs["writes"]) == (32, 16)
    assert activation.attrs["ops"] == 32


def test_glue_splits_at_anchors_not_at_edges() -> None:
    """Two residual sums are connected, but a projection lies between them."""
    b = Builder()
    first = b.node("aten.add.Tensor", (b.hidden, b.linear(b.hidden, "a", 8)), (2, 3, 8))
    b.node("aten.add.Tensor", (first, b.linear(first, "b", 8)), (2, 3, 8))
    simplify(b.graph)
    merge_gemms(b.graph)
    fuse_glue(b.graph)
    b.graph.lint()
    assert b.targets().count("residual") == 2


def test_block_diagonal_layers_are_gemms() -> None:
    b = Builder()
    weight = b.parameter("blocks", (2, 4, 5))
    b.node("aten.bmm.default", (b.hidden, weight), (2, 6, 5), sizes=[(2, 6, 4), (2, 4, 5)])
    simplify(b.graph)
    merge_gemms(b.graph)
    linear = list(b.graph)[-1]
    assert (linear.target, linear.shape, linear.attrs["k"]) == ("linear", (6, 10), 4)


def test_attention_spelled_out() -> None:
    b = Builder()
    q, k, v = (b.linear(b.hidden, name, 8) for name in "qkv")
    sizes = [(4, 3, 4), (4, 4, 3)]
    scores = b.node("aten.bmm.default", (q, k), (4, 3, 3), sizes=sizes)
    weights = b.node(
        "aten._softmax.default", (b.node("aten.mul.Tensor", (scores,), (4, 3, 3)),), (4, 3, 3)
    )
    b.node("aten.bmm.default", (weights, v), (4, 3, 4), sizes=[(4, 3, 3), (4, 3, 4)])
    simplify(b.graph)
    collapse_raw_attention(b.graph)
    b.graph.lint()
    attention = list(b.graph)[-1]
    assert attention.target == "attention"
    assert attention.inputs == (q, k, v)
    shape = [attention.attrs[key] for key in ("heads", "kv_heads", "head_dim", "value_dim")]
    assert shape == [2, 2, 4, 4]


def test_lint() -> None:
    b = Builder()
    b.node("aten.neg.default", (99,), (1,))
    with pytest.raises(ValueError, match="reads 99 before it is"):
        b.graph.lint()


def test_a_root_spelled_as_a_power_makes_a_norm() -> None:
    b = Builder()
    squared = b.node("aten.pow.Tensor_Scalar", (b.hidden,), (2, 3, 8), args=[2])
    mean = b.node("aten.mean.dim", (squared,), (2, 3, 1))
    root = b.node("aten.pow.Tensor_Scalar", (mean,), (2, 3, 1), args=[-0.5])
    b.node("aten.mul.Tensor", (b.hidden, root), (2, 3, 8))
    simplify(b.graph)
    collapse_norms(b.graph)
    assert b.targets() == ["input", "embedding", "norm"]


def test_a_parameter_added_to_a_product_is_its_bias() -> None:
    b = Builder()
    product = b.linear(b.hidden, "dense", 16)
    b.node("aten.add.Tensor", (product, b.parameter("dense.bias", (16,))), (2, 3, 16))
    simplify(b.graph)
    merge_gemms(b.graph)
    assert b.targets() == ["input", "embedding", "linear"]
    assert b.graph.nodes[product].attrs["parameters"] == {"dense.weight": 128, "dense.bias": 16}


def test_products_around_a_state_are_one_recurrence() -> None:
    """Two heads of 4, three tokens: Q·Kᵀ·V inside the chunk, Kᵀ·V for the next one."""
    b = Builder()
    q, k, v = (b.linear(b.hidden, f"{name}_proj", 8) for name in "qkv")
    scores = b.node("aten.bmm.default", (q, k), (4, 3, 3), sizes=[(4, 3, 4), (4, 4, 3)])
    inside = b.node("aten.bmm.default", (scores, v), (4, 3, 4), sizes=[(4, 3, 3), (4, 3, 4)])
    b.node("aten.bmm.default", (k, v), (4, 4, 4), sizes=[(4, 4, 3), (4, 3, 4)])
    out = b.node("aten.mul.Tensor", (inside,), (2, 3, 8))
    last = b.linear(out, "o_proj", 8)
    b.graph.outputs = (last,)
    simplify(b.graph)
    collapse_linear_attention(b.graph)
    assert b.targets() == [
        "input", "embedding", "linear", "linear", "linear", "kernel.linear_attention", "linear"
    ]  # fmt: skip
    node = b.graph.nodes[b.graph.nodes[last].inputs[0]]
    assert set(node.inputs) == {q, k, v}
    assert node.attrs["sizes"] == {"state": (2, 4, 4)}


def test_arithmetic_that_nothing_reads_is_dropped() -> None:
    b = Builder()
    kept = b.linear(b.hidden, "kept", 8)
    b.node("aten.exp.default", (kept,), (2, 3, 8))
    written = b.node("kv_update", (b.node("aten.neg.default", (b.hidden,), (2, 3, 8)),), (2, 3, 8))
    b.graph.outputs = (kept,)
    simplify(b.graph)
    drop_dead(b.graph)
    assert b.targets() == ["input", "embedding", "linear", "aten.neg.default", "kv_update"]
    assert written in b.graph.nodes
