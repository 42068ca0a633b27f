"""Linear recurrences spelled out as matrix products become one node."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from servesim.graph.ir import Node, TraceGraph, drop, replace_inputs
from servesim.graph.passes.roles import is_anchor, is_carrier
from servesim.graph.passes.simplify import base_name, parameters_of

Size = tuple[int, ...]


def collapse_linear_attention(graph: TraceGraph) -> None:
    """Replace the products around a state by a ``kernel.linear_attention`` node.

    What shows a state: one (keys x values) matrix a sequence and head, which a product makes by
    summing over all tokens, or which a row of every token is multiplied with, one by one.
    """
    users = graph.users()
    by_layer: dict[int, list[Node]] = defaultdict(list)
    for node in graph:
        product = base_name(node.target) == "aten.bmm" and not parameters_of(node)
        if product and node.layer is not None:
            by_layer[node.layer].append(node)
    for products in by_layer.values():
        state = _state(graph, products)
        if state is not None:
            _collapse(graph, users, products, state)


def _state(graph: TraceGraph, products: list[Node]) -> Size | None:
    """(sequences·heads, keys, values) of the state, if there is one."""
    steps: Counter[Size] = Counter()
    for node in products:
        left, right = node.attrs["sizes"][-2:]
        if left[-1] == graph.tokens > 1 and graph.tokens not in node.shape:
            return node.shape
        if left[-2] == 1:
            steps[right] += 1
    matrix, count = max(steps.items(), key=lambda item: (item[1], item[0]), default=((), 0))
    return matrix if count >= graph.tokens > 1 else None


def _collapse(
    graph: TraceGraph, users: dict[int, list[int]], products: list[Node], state: Size
) -> None:
    region = _region(graph, users, products)
    ends = [i for i in sorted(region) if any(u not in region for u in users[i])]
    if not ends:
        return
    last = graph.nodes[ends[-1]]
    inputs = [i for n in sorted(region) for i in graph.nodes[n].inputs if i not in region]
    last.target = "kernel.linear_attention"
    last.inputs = tuple(dict.fromkeys(inputs))
    last.attrs = {"sizes": {"state": (state[0] // graph.batch, *state[1:])}}
    replace_inputs(graph, dict.fromkeys(ends[:-1], last.id))
    drop(graph, region - {last.id})


def _region(graph: TraceGraph, users: dict[int, list[int]], products: list[Node]) -> set[int]:
    """The products, the arithmetic between and behind them, and what the same module prepares
    for them alone.
    """
    layer, scopes = products[0].layer, {n.scope for n in products}
    region = {n.id for n in products}

    def grows(ids: Iterable[int]) -> list[int]:
        new = [i for i in dict.fromkeys(ids) if i not in region and _is_arithmetic(graph.nodes[i])]
        return [i for i in new if graph.nodes[i].layer == layer]

    pending = sorted(region)
    while pending:  # behind
        pending = grows(u for i in pending for u in users[i])
        region.update(pending)
    pending = sorted(region)
    while pending:  # before
        before = grows(s for i in pending for s in graph.nodes[i].inputs)
        pending = [
            i for i in before if graph.nodes[i].scope in scopes and region.issuperset(users[i])
        ]
        region.update(pending)
    return region


def _is_arithmetic(node: Node) -> bool:
    whole = is_anchor(node) or is_carrier(node) or node.target == "norm" or node.is_leaf
    return not whole and not parameters_of(node)
