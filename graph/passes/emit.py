"""From rewritten nodes to operators in blocks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from servesim.graph.ir import Node, TraceGraph
from servesim.graph.op import STREAM, Op, OpSpec
from servesim.graph.opgraph import Block
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.sampler import Sampler
from servesim.graph.passes.naming import Namer, below_layer
from servesim.graph.passes.roles import is_carrier
from servesim.graph.passes.specs import Specs

#: Nodes that become no operator.
_SILENT = frozenset({"input", "repeat"})


def emit_blocks(graph: TraceGraph, dtype: str) -> tuple[Block, ...]:
    """One block for what precedes the layers, one a distinct layer, one for what follows."""
    emitter = _Emitter(graph, dtype)
    skipped = {r.layer for r in graph.repeats}
    numbered = dict.fromkeys(n.layer for n in graph if n.layer not in {None, *skipped})
    inside = [n.id for n in graph if n.layer is not None]
    first = min(inside, default=0)
    outside = [n for n in graph if n.layer is None]
    blocks = [emitter.block("head", [n for n in outside if n.id < first])]
    layers = []
    for index in numbered:
        assert index is not None
        same = {index, *(r.layer for r in graph.repeats if r.like == index)}
        block = emitter.block(f"layer.{index}", [n for n in graph if n.layer == index])
        if block.ops:
            layers.append(replace(block, layers=tuple(sorted(same))))
    tail = emitter.block("tail", [n for n in outside if n.id > first])
    blocks += [*_merge_equal(layers), replace(tail, ops=_with_sampler(tail.ops))]
    return tuple(b for b in blocks if b.ops)


def _with_sampler(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """What follows the LM head (scaling, capping of logits) is part of sampling."""
    kept: list[Op] = []
    for op in ops:
        kept.append(op)
        if isinstance(op.spec, LmHead):
            kept.append(Op("sampler", Sampler(op.spec.n), (op.name,)))
            break
    return tuple(kept)


def _merge_equal(blocks: list[Block]) -> list[Block]:
    """Blocks with the same operators become one."""
    merged: dict[tuple[tuple[str, OpSpec, tuple[str, ...]], ...], Block] = {}
    for block in blocks:
        key = tuple((op.name, op.spec, op.inputs) for op in block.ops)
        if key in merged:
            layers = tuple(sorted(merged[key].layers + block.layers))
            merged[key] = replace(merged[key], layers=layers)
        else:
            merged[key] = block
    return list(merged.values())


class _Emitter:
    """Names and specs of the nodes of one graph, block by block."""

    def __init__(self, graph: TraceGraph, dtype: str) -> None:
        self._graph = graph
        self._users = graph.users()
        self._namer = Namer(graph)
        self._specs = Specs(graph, dtype)
        self._names: dict[int, tuple[str, ...]] = {}
        self._stream_is_sum = self._stream_is_normed_sum()

    def block(self, name: str, nodes: list[Node]) -> Block:
        """The operators of ``nodes``, in order."""
        ops: list[Op] = []
        taken: Counter[str] = Counter()
        here = {n.id for n in nodes}
        for node in nodes:
            if node.target in _SILENT or is_carrier(node) or self._absorbed(node):
                continue
            inputs = self._inputs(node, here)
            unique: dict[str, str] = {}
            made: list[Op] = []
            for base, spec, reads in self._make(node, inputs):
                taken[base] += 1
                unique[base] = base if taken[base] == 1 else f"{base}.{taken[base]}"
                label = base if unique[base] != base else ""
                names = tuple(r if r in inputs else unique.get(r, r) for r in reads)
                made.append(Op(unique[base], spec, names, below_layer(node.scope), label))
            self._names[node.id] = _results(made)
            ops += made
        return Block(name, tuple(ops))

    def _make(
        self, node: Node, inputs: tuple[str, ...]
    ) -> list[tuple[str, OpSpec, tuple[str, ...]]]:
        if "latent" in node.attrs:
            return self._specs.latent_attention(node, inputs)
        spec = self._specs.of(node, self._addends(node))
        name = "lm_head" if isinstance(spec, LmHead) else self._namer.name(node)
        return [(name, spec, inputs)]

    def _inputs(self, node: Node, here: set[int]) -> tuple[str, ...]:
        """Names of the operators whose results ``node`` reads, read through silent nodes."""
        found: dict[str, None] = {}
        pending, seen = list(reversed(node.inputs)), set()
        while pending:
            i = pending.pop()
            if i in seen:
                continue
            seen.add(i)
            if i not in here:
                if self._graph.nodes[i].target != "input":
                    found[STREAM] = None
            elif i in self._names:
                found |= dict.fromkeys(self._names[i])
            else:
                pending += reversed(self._graph.nodes[i].inputs)
        return tuple(found)

    def _absorbed(self, node: Node) -> bool:
        """A residual sum that the next norm computes on the way in."""
        if node.attrs.get("expanding"):
            return True
        if node.target != "residual":
            return False
        readers = [self._graph.nodes[u] for u in self._users[node.id]]
        if any(r.target == "norm" for r in readers):
            return True
        return self._stream_is_sum and any(r.layer != node.layer for r in readers)

    def _stream_is_normed_sum(self) -> bool:
        """Whether layers hand on a sum and the next thing done to it is a norm."""
        graph = self._graph
        sums = norms = False
        for node in graph:
            for i in node.inputs:
                source = graph.nodes[i]
                if source.layer is not None and source.layer != node.layer:
                    sums |= source.target == "residual"
                    norms |= node.target == "norm"
        return sums and norms

    def _addends(self, node: Node) -> int:
        """Tensors the norm ``node`` adds to its input first."""
        if node.target != "norm" or not node.inputs:
            return 0
        source = self._graph.nodes[node.inputs[0]]
        if source.target == "residual" and source.layer == node.layer:
            return int(self._absorbed(source))
        crossing = source.layer != node.layer or source.target == "repeat"
        return int(crossing and self._stream_is_sum)


def _results(made: list[Op]) -> tuple[str, ...]:
    """Names of the operators that nothing among ``made`` reads."""
    read = {name for op in made for name in op.inputs}
    return tuple(op.name for op in made if op.name not in read)
