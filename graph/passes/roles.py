"""Which nodes stand for a kernel of their own, and how dataflow runs between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from servesim.graph.ir import Node, TraceGraph
from servesim.graph.passes.simplify import base_name

_ANCHORS = frozenset(
    {
        "linear", "attention", "experts", "embedding", "indexer", "repeat", "input",
        "aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.convolution",
        "aten._grouped_mm",
    }
)  # fmt: skip
#: Mix information between tokens (or experts); projections are merged by the mixer they serve.
_MIXERS = frozenset({"attention", "experts"})
_CARRIERS = frozenset({"kv_update", "state_update", "indexer_update"})


def is_anchor(node: Node) -> bool:
    """Whether ``node`` is a kernel by itself; all else is glue between anchors."""
    name = node.target if node.target in _ANCHORS else base_name(node.target)
    return name in _ANCHORS or node.target.startswith("kernel.")


def is_mixer(node: Node) -> bool:
    """Attention, routed experts or a recurrence."""
    return node.target in _MIXERS or node.target.startswith("kernel.")


def is_carrier(node: Node) -> bool:
    """A cache write: hands its input on."""
    return node.target in _CARRIERS


def reach(
    graph: TraceGraph,
    starts: Iterable[int],
    neighbours: Callable[[int], Iterable[int]],
    stop: Callable[[Node], bool],
) -> list[int]:
    """Nodes satisfying ``stop`` that are reached first along ``neighbours``, in order met."""
    found: dict[int, None] = {}
    pending, seen = list(starts), set()
    while pending:
        i = pending.pop()
        if i in seen or i not in graph.nodes:
            continue
        seen.add(i)
        if stop(graph.nodes[i]):
            found[i] = None
        else:
            pending += neighbours(i)
    return sorted(found)


def sinks(graph: TraceGraph, users: dict[int, list[int]], node: int) -> list[int]:
    """The anchors that read what ``node`` yields, glue skipped."""
    return reach(graph, users[node], users.__getitem__, is_anchor)


def sources(graph: TraceGraph, node: int) -> list[int]:
    """The anchors that ``node`` was made from, glue skipped; ``node`` itself if it is one."""
    return reach(graph, [node], lambda i: graph.nodes[i].inputs, is_anchor)
