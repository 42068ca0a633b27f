"""What a layer keeps between steps, from its writes into the cache."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.ir import Node, TraceGraph
from servesim.graph.opgraph import Block, CacheGroup
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.recurrent import Recurrent
from servesim.graph.passes.roles import sources


def mark_caches(graph: TraceGraph) -> None:
    """Put the elements a token takes in the cache into ``attrs["cached"]`` of every attention.

    An attention in whose layer nothing is written reads another layer's keys and values
    (``attrs["shared_kv"]``).
    """
    written: dict[int | None, int] = {}
    for node in graph:
        if node.target == "kv_update":
            written[node.layer] = written.get(node.layer, 0) + stored_elements(graph, node)
    for node in graph:
        if node.target == "attention":
            node.attrs["cached"] = written.get(node.layer, 0)
            node.attrs["shared_kv"] = bool(written) and node.layer not in written
            _undo_broadcast(graph, node)


def _undo_broadcast(graph: TraceGraph, node: Node) -> None:
    """Count the key/value heads that exist, where the model repeats them before caching.

    A fused projection of queries, keys and values has too few columns for as many key/value heads
    as are stored.
    """
    a = node.attrs
    made_by = {i for k in node.inputs[:3] for i in sources(graph, k)}
    if len(made_by) != 1:
        return
    projection = graph.nodes[made_by.pop()]
    width = a["head_dim"] + a["value_dim"]
    columns = projection.shape[-1] - a["heads"] * a["head_dim"]
    if projection.target != "linear" or columns <= 0 or columns >= a["kv_heads"] * width:
        return
    if columns % width == 0:
        a["kv_heads"] = columns // width
        a["cached"] = columns
        for other in graph:
            if other.target == "kv_update" and other.layer == node.layer:
                other.attrs["stored"] = [(columns * graph.tokens, other.attrs["stored"][0][1])]


def stored_elements(graph: TraceGraph, node: Node) -> int:
    """Elements a token adds to the cache."""
    return sum(elements // graph.tokens for elements, _ in node.attrs["stored"])


def cache_groups(graph: TraceGraph, dtype: str) -> tuple[CacheGroup, ...]:
    """The caches of all layers, equal ones together; call after `mark_caches` and `mark_latent`."""
    kept: dict[Kept, list[int]] = {}
    skipped = {r.layer for r in graph.repeats}
    for layer in dict.fromkeys(n.layer for n in graph):
        if layer is None or layer in skipped:
            continue
        layers = [layer, *(r.layer for r in graph.repeats if r.like == layer)]
        for what in _kept_by(graph, [n for n in graph if n.layer == layer], dtype):
            kept.setdefault(what, []).extend(layers)
    return group_layers(kept)


def group_layers(kept: dict[Kept, list[int]]) -> tuple[CacheGroup, ...]:
    """One group a kind of cache, from the layers that have it."""
    return tuple(
        CacheGroup(k.kind, tuple(sorted(set(layers))), k.bytes_per_token, k.window, k.state_bytes)
        for k, layers in kept.items()
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """What one layer keeps; the fields are `CacheGroup`'s."""

    kind: str
    bytes_per_token: float
    window: int | None = None
    state_bytes: float = 0.0


def _kept_by(graph: TraceGraph, nodes: list[Node], dtype: str) -> list[Kept]:
    """What one layer keeps: tokens' keys and values, and states of sequences."""
    tokens = [n for n in nodes if n.target in {"kv_update", "indexer_update"}]
    states = [n for n in nodes if n.target == "state_update"]
    found: list[Kept] = []
    if tokens:
        elements = sum(stored_elements(graph, n) for n in tokens)
        attention = next((n.attrs for n in nodes if n.target == "attention"), {})
        kind, window = "full", None
        if "latent" in attention:
            kind = "latent"
        elif attention.get("chunk"):
            kind, window = "chunked", attention["chunk"]
        elif attention.get("window"):
            kind, window = "window", attention["window"]
        found.append(Kept(kind, elements * bytes_per_element(dtype), window))
    if states:
        size = sum(elements * item for n in states for elements, item in n.attrs["stored"])
        found.append(Kept("state", 0.0, None, float(size)))
    return found


def caches_of(blocks: tuple[Block, ...]) -> tuple[CacheGroup, ...]:
    """What an engine must keep for models whose code keeps nothing: keys, values and states."""
    kept: dict[Kept, list[int]] = {}
    for block in blocks:
        for op in block.ops:
            spec = op.spec
            if isinstance(spec, Attention):
                width = spec.kv_heads * (spec.head_dim + spec.value_dim)
                what = Kept("full", width * bytes_per_element(spec.kv_dtype))
            elif isinstance(spec, Recurrent):
                what = Kept("state", 0.0, None, spec.state_bytes)
            else:
                continue
            kept.setdefault(what, []).extend(block.layers)
    return group_layers(kept)


def unwritten_states(
    blocks: tuple[Block, ...], caches: tuple[CacheGroup, ...]
) -> tuple[CacheGroup, ...]:
    """States of recurrences that the code keeps outside the cache's usual methods."""
    written = {layer for group in caches if group.kind == "state" for layer in group.layers}
    missing = (g for g in caches_of(blocks) if g.kind == "state")
    return tuple(g for g in missing if not written.intersection(g.layers))
