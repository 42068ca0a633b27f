"""The recorded forward pass: a list of nodes in execution order, free of torch.

Every tensor the model computed is one node (a multi-output operator is followed by one ``getitem``
node an output), so dataflow is an edge list and the rewrite passes are plain functions on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

#: Targets that are leaves: they compute nothing.
PARAMETER, CONSTANT, INPUT = "parameter", "constant", "input"


@dataclass(slots=True)
class Node:
    """One tensor and the operator that made it.

    Attributes:
        id: position in recording order, unique.
        target: ``aten.add.Tensor``, or one of the operators kept whole: ``linear``,
            ``attention``, ``experts``, ``embedding``, ``kv_update``, ``kernel.<name>``, ...
        inputs: ids of the tensors read, in argument order.
        shape, itemsize: of the result.
        scope: path of the module that was running.
        layer: index of the decoder layer, None outside the layers.
        attrs: arguments that are no tensors, under their names (positional ones in ``args``).
    """

    id: int
    target: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    itemsize: int = 2
    dtype: str = "bf16"
    scope: str = ""
    layer: int | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def numel(self) -> int:
        """Elements of the result."""
        return math.prod(self.shape)

    @property
    def is_leaf(self) -> bool:
        """Whether it is a parameter, constant or model input."""
        return self.target in {PARAMETER, CONSTANT, INPUT}


@dataclass(slots=True)
class Repeat:
    """A layer that was not recorded again because it equals an earlier one."""

    layer: int
    like: int


@dataclass
class TraceGraph:
    """A recorded forward pass of ``batch`` sequences with ``tokens`` new tokens each.

    Attributes:
        nodes: by id, in execution order.
        outputs: ids of the model's results (logits first).
        repeats: layers equal to a recorded one.
        layers: decoder layers in total.
        notes: what the recorder had to answer by policy (data-dependent values, ...).
    """

    batch: int
    tokens: int
    context: int = 0
    nodes: dict[int, Node] = field(default_factory=dict)
    outputs: tuple[int, ...] = ()
    repeats: list[Repeat] = field(default_factory=list)
    layers: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """New tokens of all sequences: what a dimension or product of dimensions is scaled by."""
        return self.batch * self.tokens

    def users(self) -> dict[int, list[int]]:
        """Ids of the nodes that read each node."""
        users: dict[int, list[int]] = {i: [] for i in self.nodes}
        for node in self.nodes.values():
            for source in dict.fromkeys(node.inputs):
                users[source].append(node.id)
        return users

    def __iter__(self) -> Iterator[Node]:
        """The nodes in execution order."""
        return iter(self.nodes.values())

    def lint(self) -> None:
        """Check the graph.

        Raises:
            ValueError: a node reads one that does not exist or comes later.
        """
        seen: set[int] = set()
        for node in self.nodes.values():
            for source in node.inputs:
                if source not in seen:
                    raise ValueError(f"node {node.id} ({node.target}) reads {source} before it is")
            seen.add(node.id)
        for output in self.outputs:
            if output not in seen:
                raise ValueError(f"output {output} does not exist")


def replace_inputs(graph: TraceGraph, mapping: dict[int, int]) -> None:
    """Make every reader of a key of ``mapping`` read its value instead (chains are followed)."""

    def final(i: int) -> int:
        while i in mapping:
            i = mapping[i]
        return i

    for node in graph.nodes.values():
        node.inputs = tuple(final(i) for i in node.inputs)
    graph.outputs = tuple(final(i) for i in graph.outputs)


def drop(graph: TraceGraph, ids: Iterable[int]) -> None:
    """Remove nodes nobody reads any more."""
    for i in ids:
        graph.nodes.pop(i, None)
