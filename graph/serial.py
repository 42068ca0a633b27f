"""Operator graphs as plain dictionaries, for the cache on disk."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from servesim.graph.op import Op, OpSpec
from servesim.graph.opgraph import Block, CacheGroup, OpGraph
from servesim.graph.ops import KINDS
from servesim.graph.ops.gemm import Part


def to_dict(graph: OpGraph) -> dict[str, Any]:
    """``graph`` as JSON-serialisable values; `from_dict` gives an equal graph back."""
    values = {f.name: getattr(graph, f.name) for f in fields(graph)}
    values["blocks"] = [
        {"name": b.name, "layers": b.layers, "ops": [_op(op) for op in b.ops]} for b in graph.blocks
    ]
    values["caches"] = [asdict(c) for c in graph.caches]
    return values


def from_dict(values: dict[str, Any]) -> OpGraph:
    """The graph of `to_dict`'s values.

    Raises:
        KeyError, TypeError, ValueError: the values are no graph.
    """
    blocks = tuple(
        Block(b["name"], tuple(_to_op(op) for op in b["ops"]), tuple(b["layers"]))
        for b in values["blocks"]
    )
    caches = tuple(CacheGroup(**(c | {"layers": tuple(c["layers"])})) for c in values["caches"])
    given = values | {"blocks": blocks, "caches": caches, "notes": tuple(values["notes"])}
    graph = OpGraph(**given)
    graph.lint()
    return graph


def _op(op: Op) -> dict[str, Any]:
    spec = {"kind": op.kind, **asdict(op.spec)}  # type: ignore[call-overload]
    return {
        "name": op.name, "spec": spec, "inputs": op.inputs, "scope": op.scope, "label": op.label
    }  # fmt: skip


def _to_op(values: dict[str, Any]) -> Op:
    given = dict(values["spec"])
    kind: type[OpSpec] = KINDS.get(given.pop("kind"))
    if "parts" in given:
        given["parts"] = tuple(Part(**part) for part in given["parts"])
    return Op(
        values["name"], kind(**given), tuple(values["inputs"]), values["scope"], values["label"]
    )
