"""Collapse RMS and layer normalisation into one node each."""

from __future__ import annotations

from servesim.graph.ir import Node, TraceGraph, drop, replace_inputs
from servesim.graph.passes.simplify import base_name, parameters_of

_ROOTS = frozenset({"aten.rsqrt", "aten.sqrt", "aten.reciprocal", "aten.linalg_vector_norm"})
_MEANS = frozenset(
    {"aten.mean", "aten.var", "aten.var_mean", "aten.sum", "aten.linalg_vector_norm"}
)
_BEFORE = frozenset(
    {"aten.pow", "aten.square", "aten.mul", "aten.abs", "aten.sub", "aten.add", "aten.mean",
     "aten.var", "aten.sum", "aten.div", "aten.reciprocal", "aten.clamp", "aten.clamp_min",
     "aten.maximum", "getitem", "aten.rsqrt", "aten.sqrt", "aten.var_mean",
     "aten.linalg_vector_norm"}
)  # fmt: skip
_CENTRES = frozenset({"aten.native_layer_norm", "aten.var", "aten.var_mean", "aten.sub"})
_SCALES = frozenset({"aten.mul", "aten.add", "aten.div", "aten.sub"})
_WHOLE = frozenset(
    {"norm", "aten.native_layer_norm", "aten._fused_rms_norm", "aten.native_group_norm"}
)


def collapse_norms(graph: TraceGraph) -> None:
    """Replace each normalisation by a ``norm`` node.

    The node's attributes: ``width`` (elements normalised together), ``groups`` (such vectors a
    row of tokens), ``function`` (see ``Norm``) and ``parameters``.
    """
    users = graph.users()
    taken: set[int] = set()
    merged: dict[int, int] = {}
    for node in list(graph):
        if node.id in taken:
            continue
        if base_name(node.target) in _WHOLE:
            _mark_whole(graph, node)
            taken.add(node.id)
        elif _is_root(node):
            found = _match(graph, users, node)
            if found is not None and not found & taken:
                taken |= found
                _collapse(graph, found)
                merged |= dict.fromkeys(found, max(found))
    merged = {inner: last for inner, last in merged.items() if inner != last}
    replace_inputs(graph, merged)
    drop(graph, merged)


def _is_root(node: Node) -> bool:
    """A square root or its reciprocal, however it is spelled."""
    name = base_name(node.target)
    halves = name == "aten.pow" and node.attrs.get("args") in ([0.5], [-0.5])
    return name in _ROOTS or halves


def _mark_whole(graph: TraceGraph, node: Node) -> None:
    source = graph.nodes[node.inputs[0]] if node.inputs else node
    shape = node.shape or source.shape
    node.attrs.setdefault("function", _function([node]))
    node.target, node.shape = "norm", shape
    node.attrs.setdefault("width", shape[-1])
    node.attrs["groups"] = max(1, node.numel // max(1, graph.rows * shape[-1]))


def _match(graph: TraceGraph, users: dict[int, list[int]], root: Node) -> set[int] | None:
    """Nodes of the normalisation around ``root`` (the reciprocal root of a mean), or None."""
    upstream, mean = _statistics(graph, root)
    if mean is None:
        return None
    sources = {i for n in upstream for i in graph.nodes[n].inputs} - upstream
    if len(sources) != 1:
        return None
    x = sources.pop()
    found = set(upstream)
    frontier = [root.id]
    while frontier:
        last = frontier.pop()
        if last != root.id and len(users[last]) > 1:
            continue  # several readers: this is the result
        for user in users[last]:
            node = graph.nodes[user]
            inputs = set(node.inputs)
            scales = base_name(node.target) in _SCALES and inputs <= found | {x}
            if scales and user not in found and not node.attrs.get("positional"):
                found.add(user)
                frontier.append(user)
    return found if len(found) > len(upstream) else None


def _statistics(graph: TraceGraph, root: Node) -> tuple[set[int], Node | None]:
    """The chain from ``root`` back to what is normalised, and the mean on it."""
    chain: set[int] = {root.id}
    mean: Node | None = root if base_name(root.target) in _MEANS else None
    pending = list(root.inputs)
    while pending:
        node = graph.nodes[pending.pop()]
        name = base_name(node.target)
        reduced = node.shape[-1:] == (1,) or not node.shape
        inner = mean is not None and _squares_or_centres(node)
        if node.id in chain or name not in _BEFORE or not (reduced or inner):
            continue
        chain.add(node.id)
        if name in _MEANS:
            mean = node
        pending += node.inputs
    return chain, mean


def _squares_or_centres(node: Node) -> bool:
    name = base_name(node.target)
    if name == "aten.mul":
        return len(node.inputs) == 2 and len(set(node.inputs)) == 1
    return name in {"aten.pow", "aten.square", "aten.abs", "aten.sub"}


def _collapse(graph: TraceGraph, found: set[int]) -> None:
    order = sorted(found)
    last = graph.nodes[order[-1]]
    inputs = dict.fromkeys(i for n in order for i in graph.nodes[n].inputs if i not in found)
    parameters: dict[str, int] = {}
    for n in order:
        parameters |= parameters_of(graph.nodes[n])
    function = _function([graph.nodes[n] for n in order])
    last.target = "norm"
    last.inputs = tuple(inputs)
    width = last.shape[-1]
    last.attrs = {
        "parameters": parameters,
        "function": function,
        "width": width,
        "groups": max(1, last.numel // max(1, graph.rows * width)),
    }


def _function(nodes: list[Node]) -> str:
    if any(base_name(n.target) in _CENTRES for n in nodes):
        return "layer"
    return "offset" if any(n.attrs.get("offset") for n in nodes) else ""
