"""Linear layers that read the same tensor and serve the same operator become one GEMM."""

from __future__ import annotations

from collections import defaultdict

from servesim.graph.ir import Node, TraceGraph, drop, replace_inputs
from servesim.graph.passes.roles import is_mixer, sinks
from servesim.graph.passes.simplify import base_name, parameters_of

_BATCHED = frozenset({"aten.bmm", "aten.baddbmm"})
_MATMULS = _BATCHED | {"linear", "aten.mm", "aten.addmm"}


def is_linear(node: Node) -> bool:
    """Whether ``node`` multiplies by a weight matrix."""
    name = node.target if node.target in _MATMULS else base_name(node.target)
    return name in _MATMULS and len(set(node.inputs)) == 1 and bool(parameters_of(node))


def merge_gemms(graph: TraceGraph) -> None:
    """Merge linear layers with equal input and a common reader.

    The merged node keeps its members, in order, in ``attrs["members"]``: (scope, columns,
    parameters).
    """
    _absorb_biases(graph)
    users = graph.users()
    by_input: dict[tuple[int, ...], list[Node]] = defaultdict(list)
    for node in graph:
        if is_linear(node):
            if base_name(node.target) in _BATCHED:
                _flatten_batch(node)
            node.target = "linear"
            width = node.shape[-1]
            node.attrs["members"] = [(_module(node), width, parameters_of(node))]
            node.attrs["k"] = _input_width(node)
            by_input[node.inputs[:1]].append(node)
    for group in by_input.values():
        for cluster in _clusters(graph, users, group):
            _merge(graph, cluster)


def _absorb_biases(graph: TraceGraph) -> None:
    """A parameter of its width added to a product is its bias."""
    users = graph.users()
    biased: dict[int, int] = {}
    for node in graph:
        product = graph.nodes[node.inputs[0]] if len(node.inputs) == 1 else node
        own = parameters_of(node)
        adds = base_name(node.target) == "aten.add" and list(own.values()) == [node.shape[-1]]
        if adds and is_linear(product) and users[product.id] == [node.id]:
            product.attrs["parameters"] = parameters_of(product) | own
            biased[node.id] = product.id
    replace_inputs(graph, biased)
    drop(graph, biased)


def _module(node: Node) -> str:
    """The module whose matrix is multiplied; some code reads the matrices of modules inside."""
    owned = parameters_of(node)
    owner = max(owned, key=owned.__getitem__).rpartition(".")[0]
    return owner if owner.startswith(f"{node.scope}.") else node.scope


def _flatten_batch(node: Node) -> None:
    """A block-diagonal layer (one matrix a group of channels): its columns side by side."""
    groups, width = node.shape[0], node.shape[-1]
    node.shape = (node.numel // (groups * width), groups * width)


def _input_width(node: Node) -> int:
    matrix = max(parameters_of(node).values())
    return matrix // node.shape[-1]


def _clusters(
    graph: TraceGraph, users: dict[int, list[int]], group: list[Node]
) -> list[list[Node]]:
    """Split linears of one input by what they serve.

    Low-rank projections (their result goes through another projection before attention) merge
    with each other only: they are not split by heads.
    """
    clusters: list[tuple[set[int], tuple[bool, int], list[Node]]] = []
    for node in group:
        near = sinks(graph, users, node.id)
        far = [s for i in near if is_linear(graph.nodes[i]) for s in sinks(graph, users, i)]
        mixers = {i for i in far if is_mixer(graph.nodes[i])}
        serves = {i for i in near if graph.nodes[i].target != "repeat"} | mixers
        low_rank = any(graph.nodes[i].target == "attention" for i in far)
        shape = (low_rank, node.numel // node.shape[-1])
        for served, like, members in clusters:
            if served & serves and like == shape:
                served.update(serves)
                members.append(node)
                break
        else:
            clusters.append((serves, shape, [node]))
    return [members for _, _, members in clusters if len(members) > 1]


def _merge(graph: TraceGraph, cluster: list[Node]) -> None:
    first, *rest = cluster
    width = sum(n.shape[-1] for n in cluster)
    first.shape = (*first.shape[:-1], width)
    first.attrs["members"] = [m for n in cluster for m in n.attrs["members"]]
    parameters: dict[str, int] = {}
    for node in cluster:
        parameters |= parameters_of(node)
    first.attrs["parameters"] = parameters
    replace_inputs(graph, {n.id: first.id for n in rest})
    drop(graph, [n.id for n in rest])
