"""Operators of a kind on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servesim.errors import UnknownNameError
from servesim.graph.opgraph import OpGraph
from servesim.hardware.placers import PLACERS, Placed, Site


@PLACERS.register("by_kind")
@dataclass(frozen=True)
class ByKind:
    """``ops``: device by kind, label or name of operators; a name goes before a kind."""

    ops: Mapping[str, str]

    def place(self, graph: OpGraph, site: Site) -> Placed:
        """Where each operator runs."""
        ops = [
            (b.name, op.name, (op.name, op.label, op.kind)) for b in graph.blocks for op in b.ops
        ]
        known = {name: None for *_, names in ops for name in names if name}
        for name in self.ops:
            if name not in known:
                raise UnknownNameError("operator or kind", name, known)
        where = {}
        for block, op, names in ops:
            if found := next((self.ops[name] for name in names if name in self.ops), None):
                where[block, op] = found
        return Placed(graph, where)
