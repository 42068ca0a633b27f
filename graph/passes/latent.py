"""Recognise latent attention (MLA): keys and values expanded from what the cache holds."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.ir import Node, TraceGraph
from servesim.graph.passes.merge_gemms import is_linear
from servesim.graph.passes.roles import is_anchor, is_carrier, reach, sources


@dataclass(frozen=True, slots=True)
class Latent:
    """The sizes of a latent attention.

    Attributes:
        expand: node of the projection from the latent vector to keys and values.
        rank: width of the latent vector.
        rope: width of the rotated key shared by all heads, cached beside it.
        nope: width of a head's key without it.
    """

    expand: int
    rank: int
    rope: int
    nope: int


def mark_latent(graph: TraceGraph) -> None:
    """Put a `Latent` into ``attrs["latent"]`` of every attention whose cache is compressed.

    The cached vectors go through a linear layer before attention reads them: decodes then run in
    absorbed form, that layer's weights multiplied into queries and outputs instead.
    """
    for node in list(graph):
        if node.target != "attention":
            continue
        keys_and_values = [i for k in node.inputs[1:3] for i in sources(graph, k)]
        for i in dict.fromkeys(keys_and_values):
            expand = graph.nodes[i]
            carriers = _carriers_before(graph, expand) if is_linear(expand) else []
            if carriers:
                _mark(graph, node, expand)


def _carriers_before(graph: TraceGraph, linear: Node) -> list[Node]:
    found = reach(
        graph,
        linear.inputs,
        lambda i: graph.nodes[i].inputs,
        lambda n: n.target == "kv_update" or is_anchor(n),
    )
    return [graph.nodes[i] for i in found if is_carrier(graph.nodes[i])]


def _mark(graph: TraceGraph, attention: Node, expand: Node) -> None:
    rank = expand.attrs["k"]
    rope = attention.attrs["cached"] - rank
    attention.attrs["latent"] = Latent(expand.id, rank, rope, attention.attrs["head_dim"] - rope)
    expand.attrs["expands"] = attention.id
    # Laying expanded keys side by side is the epilogue of the expansion, not a kernel.
    users = graph.users()
    pending = list(users[expand.id])
    while pending:
        node = graph.nodes[pending.pop()]
        if node.id != attention.id and not node.attrs.get("expanding") and not is_anchor(node):
            node.attrs["expanding"] = True
            pending += users[node.id]
