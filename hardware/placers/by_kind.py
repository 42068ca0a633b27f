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
        where, known = {}, dict[str, None]()
        for key, op in ((b.name, op) for b in graph.blocks for op in b.ops):
            names = (op.name, op.label, op.kind)
            known.update(dict.fromkeys(filter(None, names)))
            device = next((self.ops[name] for name in names if name in self.ops), site.default)
            if device != site.default:
                where[key, op.name] = device
        for name in self.ops:
            if name not in known:
                raise UnknownNameError("operator or kind", name, known)
        return Placed(graph, where)
