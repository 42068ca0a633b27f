"""Attention spelled out as matrix products around a softmax becomes one node."""

from __future__ import annotations

from servesim.graph.ir import Node, TraceGraph, drop
from servesim.graph.passes.roles import is_anchor, reach
from servesim.graph.passes.simplify import base_name, parameters_of

_PRODUCTS = frozenset({"aten.bmm", "aten.baddbmm"})
_SOFTMAX = frozenset({"aten._softmax", "aten.softmax", "aten._safe_softmax"})


def collapse_raw_attention(graph: TraceGraph) -> None:
    """Replace product-softmax-product by an ``attention`` node.

    Scores are (sequences·heads) x queries x keys. Heads that share keys were expanded before the
    product; how many there are shows in what the layer writes to the cache.
    """
    users = graph.users()
    for node in list(graph):
        if base_name(node.target) not in _SOFTMAX or node.id not in graph.nodes:
            continue
        before = [graph.nodes[i] for i in reach(graph, node.inputs, _inputs(graph), is_anchor)]
        after = [graph.nodes[i] for i in reach(graph, users[node.id], users.__getitem__, is_anchor)]
        scores = [n for n in before if _is_product(n) and n.shape[-1] == node.shape[-1]]
        outputs = [n for n in after if _is_product(n)]
        if len(scores) == 1 and outputs:
            _collapse(graph, users, scores[0], node, outputs[0])


def _inputs(graph: TraceGraph):  # type: ignore[no-untyped-def]
    return lambda i: graph.nodes[i].inputs


def _is_product(node: Node) -> bool:
    return base_name(node.target) in _PRODUCTS and not parameters_of(node)


def _collapse(
    graph: TraceGraph, users: dict[int, list[int]], scores: Node, softmax: Node, output: Node
) -> None:
    between = _between(graph, users, scores.id, output.id)
    query, key = scores.inputs[-2:] if len(scores.inputs) >= 2 else scores.inputs * 2
    values = [i for i in output.inputs if i not in between and i != scores.id]
    if not values:
        return
    heads = max(1, scores.shape[0] // graph.batch)
    head_dim = scores.attrs["sizes"][-2][-1]
    value_dim = output.shape[-1]
    stored = sum(
        elements // graph.tokens
        for n in graph
        if n.target == "kv_update" and n.layer == softmax.layer
        for elements, _ in n.attrs["stored"]
    )
    kv_heads = stored // (head_dim + value_dim) if stored else heads
    output.target = "attention"
    output.inputs = (query, key, values[-1])
    output.attrs = {
        "heads": heads,
        "kv_heads": min(heads, max(1, kv_heads)),
        "head_dim": head_dim,
        "value_dim": value_dim,
        "scale": None,
        "window": None,
        "causal": True,
        "reads_of": output.attrs.get("reads_of", ()),
    }
    drop(graph, [i for i in (*between, scores.id) if i != output.id])


def _between(graph: TraceGraph, users: dict[int, list[int]], start: int, end: int) -> list[int]:
    """Nodes on the paths from ``start`` to ``end``."""
    ahead: set[int] = set()
    pending = list(users[start])
    while pending:
        i = pending.pop()
        if i not in ahead and i != end and i < end:
            ahead.add(i)
            pending += users[i]
    behind: set[int] = set()
    pending = list(graph.nodes[end].inputs)
    while pending:
        i = pending.pop()
        if i in ahead and i not in behind:
            behind.add(i)
            pending += graph.nodes[i].inputs
    return sorted(behind)
