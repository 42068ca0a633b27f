"""Remove what computes nothing: views, casts, copies, and values known before the step."""

from __future__ import annotations

from servesim.graph.ir import PARAMETER, Node, TraceGraph, drop, replace_inputs


def aten(names: str) -> frozenset[str]:
    """``"add mul"`` -> ``{"aten.add", "aten.mul"}``."""
    return frozenset(f"aten.{name}" for name in names.split())


#: Operators that rename, reshape, select or cast; a fused kernel does them on the way.
VIEWS = aten(
    "view reshape _unsafe_view _reshape_alias transpose t permute unsqueeze squeeze expand slice "
    "select narrow split split_with_sizes chunk unbind detach alias clone contiguous _to_copy to "
    "lift_fresh lift_fresh_copy flatten unflatten movedim view_as as_strided diagonal positive "
    "numpy_T adjoint broadcast_to expand_as squeeze_ unsqueeze_ conj view_as_real view_as_complex "
    "resolve_conj real _conj unfold flip roll repeat tile repeat_interleave"
)
_SELECTIONS = aten("index index_select")
#: Operators that make room and compute nothing.
_ALLOCATIONS = aten("empty empty_like new_empty empty_strided new_empty_strided")


def base_name(target: str) -> str:
    """``aten.add.Tensor`` -> ``aten.add``."""
    return ".".join(target.split(".")[:2])


def simplify(graph: TraceGraph) -> None:
    """Drop views, casts and everything that does not depend on the tokens.

    What depends on positions and parameters alone (rotary tables, masks, ``1 + weight``) an engine
    computes once. The parameters behind a dropped value become the reader's
    (``attrs["parameters"]``: names and sizes).
    """
    _attach_masks(graph)
    data = _depends_on_tokens(graph)
    renamed: dict[int, int] = {}
    gone: list[int] = []
    static_reads: set[int] = set()
    parameters = _parameters_behind(graph, data)
    for node in graph:
        if node.id not in data:
            gone.append(node.id)
            continue
        sources = [i for i in node.inputs if i in data]
        own = parameters_of(node) | _union(parameters[i] for i in node.inputs if i not in data)
        if own:
            node.attrs["parameters"] = own
        if len(sources) < len(node.inputs):
            static_reads.add(node.id)
            if _reads_positions(graph, node, data):
                node.attrs["positional"] = True
            if any(_adds_one(graph.nodes[i]) for i in node.inputs if i not in data):
                node.attrs["offset"] = True
        node.attrs["operands"] = len(node.inputs)
        node.attrs["read_views"] = tuple(sources)
        node.inputs = tuple(sources)
        passes = _is_view(node, len(sources)) or node.target in {"getitem", "join"}
        if passes and sources and not (node.target == "join" and len(set(sources)) > 1):
            renamed[node.id] = sources[0]
            gone.append(node.id)
    _measure_reads(graph, renamed)
    replace_inputs(graph, renamed)
    drop(graph, gone)


def _measure_reads(graph: TraceGraph, renamed: dict[int, int]) -> None:
    """Turn ``read_views`` into (tensor, the view of it that is read, elements of the view)."""

    def chain(i: int) -> list[int]:
        views = [i]
        while views[-1] in renamed:
            views.append(renamed[views[-1]])
        return views

    for node in graph:
        reads = []
        for i in node.attrs.pop("read_views", ()):
            views = chain(i)
            # An expanded view repeats elements; what is read is no more than its source holds.
            size = min((graph.nodes[v].numel for v in views if graph.nodes[v].shape), default=0)
            reads.append((tuple(views), size))
        node.attrs["reads_of"] = tuple(reads)


def _is_view(node: Node, sources: int) -> bool:
    """Views, and selections whose positions are known before the step."""
    name = base_name(node.target)
    return name in VIEWS or (name in _SELECTIONS and sources == 1)


def parameters_of(node: Node) -> dict[str, int]:
    """Parameters that ``node`` reads, with their elements."""
    found: dict[str, int] = node.attrs.get("parameters", {})
    return found


def _attach_masks(graph: TraceGraph) -> None:
    """Copy what a mask lets through to the attention that reads it."""
    limits: dict[int, dict[str, object]] = {}
    for node in graph:
        if node.target == "mask":
            limits[node.id] = dict(node.attrs)
            continue
        found = {k: v for i in node.inputs for k, v in limits.get(i, {}).items()}
        if node.target == "attention":
            for key in ("window", "chunk", "causal"):
                if node.attrs.get(key) is None and key in found:
                    node.attrs[key] = found[key]
        elif (found and node.target != "repeat" and node.layer is None) or _is_static_mask(node):
            limits[node.id] = found


def _is_static_mask(node: Node) -> bool:
    return base_name(node.target) in VIEWS


def _depends_on_tokens(graph: TraceGraph) -> set[int]:
    """Nodes that cannot be computed before the token ids are known, and table look-ups."""
    data: set[int] = set()
    for node in graph:
        if base_name(node.target) in _ALLOCATIONS:
            continue
        token_input = node.target == "input"
        if token_input or node.target == "embedding" or any(i in data for i in node.inputs):
            data.add(node.id)
    return data


def _parameters_behind(graph: TraceGraph, data: set[int]) -> dict[int, dict[str, int]]:
    """For every static node the parameters it was computed from."""
    behind: dict[int, dict[str, int]] = {}
    for node in graph:
        if node.id in data:
            continue
        if node.target == PARAMETER:
            behind[node.id] = {node.attrs["name"]: node.numel}
        else:
            behind[node.id] = _union(behind.get(i, {}) for i in node.inputs)
    return behind


def _union(maps: object) -> dict[str, int]:
    merged: dict[str, int] = {}
    for one in maps:  # type: ignore[attr-defined]
        merged |= one
    return merged


def _adds_one(node: Node) -> bool:
    """``1 + weight``: Gemma's norms keep their weights so."""
    return base_name(node.target) == "aten.add" and node.attrs.get("args") == [1.0]


def _reads_positions(graph: TraceGraph, node: Node, data: set[int]) -> bool:
    """Whether a static operand varies along the tokens: a position table, not a weight."""
    for i in node.inputs:
        if i in data:
            continue
        operand = graph.nodes[i]
        if operand.target != PARAMETER and graph.tokens in operand.shape and graph.tokens > 1:
            return True
    return False
