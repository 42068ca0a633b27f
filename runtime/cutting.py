"""Cutting the blocks of a placement into pieces for a list schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT, STREAM, Op
from servesim.graph.opgraph import Block
from servesim.graph.work import AttentionWork
from servesim.hardware.placement import Placement
from servesim.hardware.transfer import Transfer
from servesim.runtime.host_reads import HostReads
from servesim.runtime.pieces import Kernels, Lane, Piece, Send, hops, kv_read

_PROBE = BatchShape(((2, 1),), 1, 1, 1, np.array([1]))


def cut(
    placement: Placement, reads: HostReads | None = None
) -> Iterator[tuple[int, tuple[Piece, ...]]]:
    """The pieces of each block and how often they run, in order.

    A transfer that only some of a block's layers need (those behind a layer on another device)
    is made before the first of them, one to a stage behind after the last.

    Args:
        reads: what layers read of their weights from the default device's host.
    """
    for block in placement.graph.blocks:
        if not block.ops:
            continue
        cutter = _Cutter(placement, block, reads if block.layers else None)
        rare = [t for t in cutter.transfers if t.consumer and t.count != block.count]
        behind = [t for t in cutter.transfers if not t.consumer]
        cutter.cut()
        yield from ((t.count, (cutter.send(t, ()),)) for t in rare)
        yield block.count, tuple(cutter.pieces)
        yield from ((t.count, (cutter.send(t, ()),)) for t in behind)


def attends_in_memory(placement: Placement, block: Block, op: Op) -> bool:
    """Whether decodes attend inside a memory, and prefills, for their arithmetic, elsewhere."""
    name = placement.name_of(block, op)
    return (
        name != placement.default
        and placement.devices[name].kind == "pim"
        and op.spec.depends == CONTEXT
        and isinstance(op.work(_PROBE), AttentionWork)
    )


class _Cutter:
    """Cuts one block: operators of one device stay together while nothing comes in or goes out."""

    def __init__(self, placement: Placement, block: Block, reads: HostReads | None) -> None:
        self.placement, self.block, self.reads = placement, block, reads
        self.transfers = [t for t in placement.transfers if t.block == block.name]
        self.halves = {op.name for op in block.ops if attends_in_memory(placement, block, op)}
        self.pieces: list[Piece] = []
        self.made: dict[str, tuple[int, ...]] = {STREAM: ()}  # pieces that end an operator
        self.closed = True  # whether the last piece may not grow

    def cut(self) -> None:
        """Fill ``pieces``."""
        for i, op in enumerate(self.block.ops):
            inputs = op.inputs or ((self.block.ops[i - 1].name,) if i else (STREAM,))
            if op.name in self.halves:
                self._halve(op, inputs)
            else:
                self._place(op, inputs)
            self.closed = op.name in self.halves or self._leaves(op)

    def send(self, transfer: Transfer, after: Sequence[int]) -> Send:
        """The piece that makes ``transfer``."""
        links = hops(self.placement, transfer.ends)
        cost = _sent(transfer, transfer.producer.name in self.halves)
        return Send("transfer", transfer.ends, cost, links, tuple(after))

    def _place(self, op: Op, inputs: Sequence[str]) -> None:
        name = self.placement.name_of(self.block, op)
        arrived = self._receive(op, inputs)
        made = {i for producer in inputs for i in self.made[producer]}
        last = len(self.pieces) - 1
        grown = self.pieces[last] if self.pieces else None
        if (
            isinstance(grown, Kernels)
            and not (self.closed or arrived)
            and grown.device == name
            and made <= {last, *grown.after}
        ):
            self.pieces[last] = replace(grown, ops=(*grown.ops, op), _fixed={})
            self.made[op.name] = (last,)
        else:
            after, home = (*sorted(made), *arrived), name == self.placement.default
            reads = self.reads if home else None
            self._add(op, Kernels(self.placement, name, (op,), after=after, reads=reads))

    def _halve(self, op: Op, inputs: Sequence[str]) -> None:
        """Decodes where ``op`` is placed; prefills on the default device, which reads their KV."""
        there, here = self.placement.name_of(self.block, op), self.placement.default
        made = tuple(sorted({i for producer in inputs for i in self.made[producer]}))
        arrived = self._receive(op, inputs)
        decodes = Kernels(self.placement, there, (op,), "decodes", (*made, *arrived))
        route = self.placement.topology.route(there, here)
        self.pieces.append(
            Send("KV read", (there, here), kv_read(op, route), hops(self.placement, (there, here)))
        )
        read = len(self.pieces) - 1
        prefills = Kernels(self.placement, here, (op,), "prefills", (*made, read))
        self._add(op, prefills, decodes)

    def _receive(self, op: Op, inputs: Sequence[str]) -> tuple[int, ...]:
        """Add the transfers to ``op``; their indices."""
        made = tuple(sorted({i for producer in inputs for i in self.made[producer]}))
        wanted = [
            t for t in self.transfers if t.consumer == op.name and t.count == self.block.count
        ]
        for transfer in wanted:
            self.pieces.append(self.send(transfer, made))
        return tuple(range(len(self.pieces) - len(wanted), len(self.pieces)))

    def _add(self, op: Op, *pieces: Kernels) -> None:
        first = len(self.pieces)
        self.pieces.extend(pieces)
        self.made[op.name] = tuple(range(first, len(self.pieces)))

    def _leaves(self, op: Op) -> bool:
        """Whether another device reads the results of ``op``."""
        return any(
            t.producer.name == op.name or any(o.name == op.name for o in t.others)
            for t in self.transfers
        )


def _sent(transfer: Transfer, decodes_only: bool) -> Callable[[Lane], float]:
    def seconds(lane: Lane) -> float:
        batch = lane.decodes if decodes_only else lane.moved
        return transfer.cost(batch).seconds if batch.tokens else 0.0

    return seconds
