"""Whose columns those of a merged linear layer are, and the heads that they belong to."""

from __future__ import annotations

from servesim.graph.ir import Node, TraceGraph
from servesim.graph.ops.gemm import Part
from servesim.graph.passes.naming import below_layer
from servesim.graph.passes.roles import sinks


def parts_of(graph: TraceGraph, users: dict[int, list[int]], node: Node) -> tuple[Part, ...]:
    """The layers merged in ``node``, with the heads their columns belong to."""
    heads = _heads_served(graph, users, node)
    parts: list[Part] = []
    for scope, size, _ in node.attrs["members"]:
        source = below_layer(scope)
        if heads is None:
            parts.append(Part(source, size, size))
            continue
        parts += _by_heads(source, size, *heads, alone=len(node.attrs["members"]) == 1)
    return tuple(parts)


def _heads_served(
    graph: TraceGraph, users: dict[int, list[int]], node: Node
) -> tuple[int, int, int, int] | None:
    for i in sinks(graph, users, node.id):
        served = graph.nodes[i]
        if served.target == "attention":
            a = served.attrs
            return a["heads"], a["kv_heads"], a["head_dim"], a["value_dim"]
    return None


def _by_heads(
    source: str, size: int, heads: int, kv_heads: int, key: int, value: int, *, alone: bool
) -> list[Part]:
    """The parts of one projection: a fused one splits into queries, keys and values."""
    if alone and size == heads * key + kv_heads * (key + value):
        return [
            Part(source, heads * key, heads),
            Part(source, kv_heads * key, kv_heads, repeats=True),
            Part(source, kv_heads * value, kv_heads, repeats=True),
        ]
    if kv_heads < heads and size in {kv_heads * key, kv_heads * value}:
        return [Part(source, size, kv_heads, repeats=True)]
    whole_heads = size % (heads * key) == 0 or size % (heads * value) == 0
    return [Part(source, size, heads if whole_heads else size)]
