"""A recorded forward pass as a ``torch.fx`` graph: for its printing, passes and viewers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx

from servesim.graph.ir import CONSTANT, INPUT, PARAMETER, Node, TraceGraph


def to_fx(trace: TraceGraph) -> fx.Graph:
    """The same nodes and edges as ``trace``, linted.

    Operators of torch are called by themselves; those recorded whole (attention, experts, cache
    writes) by functions that only bear their names. ``meta`` of a node holds its ``shape``,
    ``dtype``, ``layer``, ``scope`` and ``attrs``.
    """
    graph = fx.Graph()
    made: dict[int, fx.Node] = {}
    for node in trace:
        made[node.id] = _add(graph, node, tuple(made[i] for i in node.inputs))
        made[node.id].meta |= {
            "shape": node.shape,
            "dtype": node.dtype,
            "layer": node.layer,
            "scope": node.scope,
            "attrs": node.attrs,
        }
    graph.output(tuple(made[i] for i in trace.outputs))
    graph.lint()
    return graph


def _add(graph: fx.Graph, node: Node, inputs: tuple[fx.Node, ...]) -> fx.Node:
    if node.target == INPUT:
        return graph.placeholder(node.attrs["name"])
    if node.target in {PARAMETER, CONSTANT}:
        name = node.attrs["name"] or f"constant_{node.id}"
        return graph.create_node("get_attr", name, name=name.replace(".", "_"))
    return graph.call_function(_function(node.target), inputs)


@cache
def _function(target: str) -> Callable[..., Any]:
    """The operator of torch called ``target``, or a stand-in of that name."""
    library, *path = target.split(".")
    found: Any = torch.ops.aten if library == "aten" and len(path) == 2 else None
    for name in path:
        found = getattr(found, name, None)
    if callable(found):
        operator: Callable[..., Any] = found
        return operator

    def stand_in(*tensors: Any) -> Any:
        raise NotImplementedError(f"{target} was recorded whole and computes nothing")

    stand_in.__name__ = stand_in.__qualname__ = target.replace(".", "_")
    return stand_in
