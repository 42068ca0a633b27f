"""Attention and FFN of each layer as two graphs, to be sharded apart, and joined again.

The FFN half of a layer is its matrix products (routers and experts among them) that neither lead to
attention or a recurrence nor project its result, with what lies between them. All else stays with
the attention: norms, residuals, embedding and LM head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from servesim.errors import UnsupportedError
from servesim.graph.merged import Merged
from servesim.graph.op import CONTEXT, STREAM, TOKENS, Op, OpSpec
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.collective import Collective
from servesim.graph.ops.experts import Experts, PooledExperts
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.pointwise import Pointwise

#: The group of the collectives among FFN devices, and how their names start.
FFN, _PREFIX = "ffn", "ffn_"
_GATHER = "all_gather"


def first_layer_apart(graph: OpGraph) -> OpGraph:
    """``graph`` with its first layer, which reads the embedding and no FFN, as one block."""
    blocks: list[Block] = []
    for block in graph.blocks:
        if block.layers[:1] == (0,) and block.count > 1:
            rest = replace(block, name=f"{block.name}/rest", layers=block.layers[1:])
            blocks += [replace(block, layers=(0,)), rest]
        else:
            blocks.append(block)
    return replace(graph, blocks=tuple(blocks))


def halves(graph: OpGraph) -> tuple[OpGraph, OpGraph]:
    """The attention half and the FFN half of ``graph``, one that is not sharded.

    What an operator reads of the other half is the ``STREAM``.

    Raises:
        UnsupportedError: no layer has an FFN.
    """
    names = {block.name: ffn_names(block) for block in graph.blocks}
    ffn = replace(
        graph,
        blocks=tuple(_part(b, names[b.name]) for b in graph.blocks),
        caches=(),
        weight_bytes=0.0,
    )
    ffn = replace(ffn, weight_bytes=ffn.operator_weight_bytes)
    if not any(block.ops for block in ffn.blocks):
        raise UnsupportedError(f"{graph.model} has no FFN apart from its attention")
    others = (_part(b, {op.name for op in b.ops} - names[b.name]) for b in graph.blocks)
    left = graph.weight_bytes - ffn.weight_bytes
    attention = replace(graph, blocks=tuple(others), weight_bytes=left)
    for half in (attention, ffn):
        half.lint()
    return attention, ffn


def ffn_names(block: Block) -> set[str]:
    """Names of the operators of ``block`` that are its FFN."""
    if not block.layers:
        return set()
    readers = _readers(block)
    mixing = [op for op in block.ops if op.spec.depends == CONTEXT]
    attention = {op.name for op in mixing} | _ancestors(block, (op.name for op in mixing))
    pending = [name for op in mixing for name in readers[op.name]]
    products = {op.name for op in block.ops if isinstance(op.spec, (Gemm, Experts))}
    while pending:  # to the projection of what attention yields
        name = pending.pop()
        if name not in attention:
            attention.add(name)
            pending += [] if name in products else readers[name]
    cores = products - attention
    between = _ancestors(block, cores) & _reached(readers, cores)
    found = (cores | between) - attention
    for op in block.ops:
        if isinstance(op.spec, Pointwise) and op.inputs and found.issuperset(op.inputs):
            found.add(op.name)
    return found


def joined(whole: OpGraph, attention: OpGraph, ffn: OpGraph, workers: int) -> OpGraph:
    """The halves of ``whole``, each sharded in its own way, as one graph.

    Each FFN device gets its share of the tokens, and gathers those of the others; its results are
    summed where they leave. FFN operators see the tokens of ``workers`` attention workers.
    """
    blocks = []
    for old, first, second in zip(whole.blocks, attention.blocks, ffn.blocks, strict=True):
        joiner = _Joiner(old, first, _gathering(second, ffn), workers)
        blocks.append(replace(old, ops=tuple(joiner.ops())))
    graph = replace(
        attention, blocks=tuple(blocks), weight_bytes=attention.weight_bytes + ffn.weight_bytes
    )
    graph.lint()
    return graph


def ffn_keys(graph: OpGraph) -> list[tuple[str, str]]:
    """Block and name of each FFN operator of a joined graph."""
    return [
        (block.name, op.name)
        for block in graph.blocks
        for op in block.ops
        if isinstance(op.spec, (Merged, PooledExperts))
    ]


def _part(block: Block, names: set[str]) -> Block:
    """The operators called ``names``; what they read of others is the stream."""
    ops = (
        replace(op, inputs=tuple(dict.fromkeys(n if n in names else STREAM for n in op.inputs)))
        for op in block.ops
        if op.name in names
    )
    return replace(block, ops=tuple(ops))


def _gathering(half: Block, graph: OpGraph) -> Block:
    """An FFN half that gathers what it reads and scatters what it yields, where it is sharded."""
    ranks = graph.tensor_parallel_size
    if ranks == 1 or not half.ops:
        return half
    read = {name for op in half.ops for name in op.inputs}
    ops = []
    for op in half.ops:
        if isinstance(op.spec, Collective) and op.name not in read:
            spec = replace(op.spec, group=FFN, operation="reduce_scatter")
            ops.append(replace(op, spec=spec, label="reduce_scatter"))
        elif isinstance(op.spec, Collective):
            ops.append(replace(op, spec=replace(op.spec, group=FFN)))
        else:
            ops.append(op)
    gather = Collective("all_gather", graph.hidden_size, ranks, FFN, graph.dtype)
    first = Op(_GATHER, gather, (STREAM,), "", "all_gather")
    return replace(half, ops=(first, *ops))


def _readers(block: Block) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {op.name: [] for op in block.ops}
    for op in block.ops:
        for name in op.inputs:
            if name != STREAM:
                found[name].append(op.name)
    return found


def _ancestors(block: Block, names: Iterable[str]) -> set[str]:
    """What the operators called ``names`` depend on."""
    reads = {op.name: [name for name in op.inputs if name != STREAM] for op in block.ops}
    return _reached(reads, names)


def _reached(edges: Mapping[str, Sequence[str]], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    pending = [after for name in sorted(names) for after in edges[name]]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += edges[name]
    return found


class _Joiner:
    """Puts the operators of two halves of a block back into its order."""

    def __init__(self, whole: Block, attention: Block, ffn: Block, workers: int) -> None:
        self._whole = {op.name: op for op in whole.ops}
        self._workers = workers
        self._ffn = dict.fromkeys(op.name for op in ffn.ops if op.name in self._whole)
        self._outside = self._standing(attention, "") | self._standing(ffn, _PREFIX)
        self._segments = self._cut(attention, "") | self._cut(ffn, _PREFIX)

    def ops(self) -> Iterator[Op]:
        """All operators; an FFN whose results nothing of the block reads comes last."""
        rest = [op for op in self._whole.values() if op.name not in self._ffn]
        order = list(self._whole)
        if not any(name in self._ffn for op in rest for name in op.inputs):
            order.sort(key=self._ffn.__contains__)
        for name in order:
            yield from self._segments[name]

    def _standing(self, half: Block, prefix: str) -> dict[str, str]:
        """The collective that the other half reads in place of an operator."""
        return {
            name: prefix + op.name
            for op in half.ops
            if op.name not in self._whole
            for name in op.inputs
            if name in self._whole
        }

    def _cut(self, half: Block, prefix: str) -> dict[str, list[Op]]:
        """Each operator with the collectives before it; those at the end with what they read."""
        segments: dict[str, list[Op]] = {}
        pending: list[Op] = []
        for op in half.ops:
            own = self._own(op, half, prefix)
            if op.name in self._whole:
                segments[op.name] = [*pending, own]
                pending = []
            else:
                pending.append(own)
        for own in pending:
            last = [name for name in own.inputs if name in segments][-1]
            segments[last].append(own)
        return segments

    def _own(self, op: Op, half: Block, prefix: str) -> Op:
        """An operator of a half as one of the whole."""
        reads: list[str] = []
        for name in op.inputs:
            if name != STREAM:
                reads.append(name if name in self._whole else prefix + name)
            elif prefix and half.ops[0].name == _GATHER != op.name:
                reads.append(prefix + _GATHER)
            else:
                reads += self._from_outside(op, bool(prefix))
        spec = self._merged(op.spec) if prefix else op.spec
        name = op.name if op.name in self._whole else prefix + op.name
        return replace(op, name=name, inputs=tuple(dict.fromkeys(reads)), spec=spec)

    def _from_outside(self, op: Op, in_ffn: bool) -> list[str]:
        """What an operator (for one that gathers: what the FFN) reads of the other half."""
        readers = [op.name] if op.name in self._whole else list(self._ffn)
        read = dict.fromkeys(name for one in readers for name in self._whole[one].inputs)
        return [self._outside.get(n, n) for n in read if n == STREAM or (n in self._ffn) != in_ffn]

    def _merged(self, spec: OpSpec) -> OpSpec:
        if isinstance(spec, PooledExperts):
            return replace(spec, replicas=self._workers)
        return Merged(spec, self._workers) if spec.depends == TOKENS else spec
