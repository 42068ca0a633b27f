"""Fuse the glue between anchors into the kernels a serving engine launches for it."""

from __future__ import annotations

from collections import defaultdict

from servesim.graph.ir import Node, TraceGraph, drop, replace_inputs
from servesim.graph.passes.roles import is_anchor, is_carrier
from servesim.graph.passes.simplify import aten, base_name, parameters_of

_ACTIVATIONS = aten(
    "silu gelu relu sigmoid tanh leaky_relu elu softplus hardswish mish erf exp threshold relu6 "
    "hardtanh log_sigmoid hardsigmoid celu selu prelu"
)
#: Elements moved to where the tokens say; like arithmetic, they cost what they read and write.
_MOVES = aten("index index_put index_put_ index_add gather scatter new_zeros cumsum")
#: Element-wise arithmetic that fuses into any kernel's prologue or epilogue.
POINTWISE = (
    _ACTIVATIONS
    | _MOVES
    | aten(
        "add add_ mul mul_ sub sub_ div div_ neg rsub cat stack where clamp clamp_min clamp_max "
        "pow square sqrt rsqrt reciprocal abs masked_fill maximum minimum copy copy_ cos sin "
        "addcmul lerp sign log log1p expm1 zeros_like ones_like full_like slice_scatter pad "
        "constant_pad_nd eq ne lt le gt ge logical_and logical_or logical_not bitwise_not "
        "bitwise_and bitwise_or fill fill_ zero_ mean sum select_scatter as_strided_scatter "
        "rsqrt_ sqrt_ clamp_ masked_fill_ sigmoid_ silu_ gelu_ relu_ tanh_ exp_ neg_ "
        "linalg_vector_norm isnan"
    )
    | {"join", "getitem"}
)
_SELECTIONS = frozenset({"aten.topk", "aten.sort", "aten.argmax", "aten.max"})


def fuse_glue(graph: TraceGraph) -> None:
    """Replace connected glue with the same latest anchor by one node.

    Its target is the role: ``rotary``, ``router``, ``activation``, ``residual`` or ``elementwise``;
    its attributes the elements read and written and the arithmetic done, a row of tokens.
    """
    stage = _stages(graph)
    groups = _components(graph, stage)
    users = graph.users()
    merged: dict[int, int] = {}
    for members in groups:
        _collapse(graph, users, members)
        merged |= dict.fromkeys(members[:-1], members[-1])
    replace_inputs(graph, merged)
    drop(graph, merged)
    # A fused node stands where its last member stood; its readers may come before.
    _reorder(graph)


def _is_glue(node: Node) -> bool:
    return not (is_anchor(node) or is_carrier(node) or node.target == "norm" or node.is_leaf)


def _stages(graph: TraceGraph) -> dict[int, int]:
    """For every node the latest kernel upstream, in execution order (itself if it is one)."""
    stage: dict[int, int] = {}
    for node in graph:
        before = max((stage[i] for i in node.inputs), default=-1)
        stage[node.id] = before if _is_glue(node) or is_carrier(node) else node.id
    return stage


def _components(graph: TraceGraph, stage: dict[int, int]) -> list[list[int]]:
    """Glue nodes connected by edges within a stage; plain residual sums stand alone."""
    parent: dict[int, int] = {}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for node in graph:
        if not _is_glue(node):
            continue
        parent[node.id] = node.id
        for i in node.inputs:
            if i in parent and stage[i] == stage[node.id]:
                parent[root(node.id)] = root(i)
    # Siblings of one role after one anchor (query and key rotation) are one kernel.
    groups: dict[int, list[int]] = defaultdict(list)
    for i in parent:
        groups[root(i)].append(i)
    merged: dict[tuple[int, str, int | None], list[int]] = {}
    result = []
    for members in groups.values():
        nodes = [graph.nodes[i] for i in members]
        role = role_of(nodes)
        if role == "router" and not _is_one_kernel(nodes):
            result += [[i] for i in members]
            continue
        key = (stage[members[0]], role, nodes[0].layer)
        if role == "rotary" and key in merged:
            merged[key] += members
            continue
        merged[key] = members
        result.append(members)
    return [sorted(m) for m in result]


def _is_one_kernel(nodes: list[Node]) -> bool:
    """Whether a router is one kernel: engines have some for the ``top_k`` of given scores.

    Any other way to choose (the repeated masked maxima of sparse mixers) runs as it is written.
    """
    return any(base_name(n.target) == "aten.topk" for n in nodes)


def role_of(nodes: list[Node]) -> str:
    """What a group of fused operations is for."""
    names = {base_name(n.target).rstrip("_") for n in nodes}
    if names & _SELECTIONS:
        return "router"
    if any(n.attrs.get("positional") for n in nodes) and names & {"aten.mul", "aten.cat"}:
        return "rotary"
    if names & _ACTIVATIONS:
        return "activation"
    if names <= {"aten.add"}:
        return "residual"
    return "elementwise"


def _collapse(graph: TraceGraph, users: dict[int, list[int]], members: list[int]) -> None:
    inside = set(members)
    nodes = [graph.nodes[i] for i in members]
    inputs = list(dict.fromkeys(i for n in nodes for i in n.inputs if i not in inside))
    outputs = [
        n for n in nodes if any(u not in inside for u in users[n.id]) or n.id in graph.outputs
    ]
    parameters: dict[str, int] = {}
    for node in nodes:
        parameters |= parameters_of(node)
    last = nodes[-1]
    rows = max(1, graph.rows)
    attrs = {
        "parameters": parameters,
        "reads": _elements_read(nodes, inside) / rows,
        "writes": sum(n.numel for n in outputs or [last]) / rows,
        "ops": sum(n.numel for n in nodes) / rows,
        "members": [n.target for n in nodes],
        "scopes": sorted({n.scope for n in nodes}),
        "top_k": next((n.attrs["args"][0] for n in nodes if n.target == "aten.topk.default"), 0),
        "expanding": any(n.attrs.get("expanding") for n in nodes),
    }
    last.target = role_of(nodes)
    last.inputs, last.attrs = tuple(inputs), attrs


def _elements_read(nodes: list[Node], inside: set[int]) -> int:
    """Elements read from outside the group; a view inside another that is read counts once."""
    read: dict[int, tuple[tuple[int, ...], int]] = {}
    for node in nodes:
        for views, size in node.attrs.get("reads_of", ()):
            if views[-1] not in inside:
                read[views[0]] = (views, size)
    covered = {v for v, (views, _) in read.items() if any(w in read for w in views[1:])}
    return sum(size for v, (_, size) in read.items() if v not in covered)


def _reorder(graph: TraceGraph) -> None:
    """Nodes back into an order in which each follows what it reads."""
    placed: set[int] = set()
    order: dict[int, Node] = {}

    def place(i: int) -> None:
        pending = [i]
        while pending:
            current = pending[-1]
            missing = [s for s in graph.nodes[current].inputs if s not in placed]
            if missing:
                pending += missing
                continue
            pending.pop()
            if current not in placed:
                placed.add(current)
                order[current] = graph.nodes[current]

    for i in list(graph.nodes):
        place(i)
    graph.nodes = order
