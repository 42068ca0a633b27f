"""What each operator of a step would cost and hold on each device, for a search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT, Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.work import AttentionWork, CollectiveWork
from servesim.hardware.placers import Site
from servesim.hardware.topology import Route, transfer_seconds
from servesim.hardware.transfer import result_bytes


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of operators for steps of ``batch``.

    Attributes:
        hidden: share of the time of other devices than the default one that counts; less than
            one for what is hoped to overlap.
    """

    graph: OpGraph
    site: Site
    batch: BatchShape
    hidden: float = 0.0

    def seconds(self, op: Op, name: str) -> float | None:
        """Seconds of one run of ``op`` on the device called ``name``; None where it cannot run.

        Collectives stay on the default device, as does a LM head that shares the embedding's
        weights, with it.
        """
        home = name == self.site.default
        work = op.work(self.batch)
        if isinstance(work, CollectiveWork):
            return 0.0 if home else None
        if not home and op.kind in ("embedding", "lm_head") and self._tied:
            return None
        if not op.runs(self.batch):
            return 0.0 if home or self.site.devices[name].kind != "pim" else None
        try:
            return self._seconds(op, name)
        except UnsupportedError:
            return None

    def result(self, op: Op) -> float:
        """Bytes of what ``op`` hands on."""
        return result_bytes(op.work(self.batch))

    def transfer(self, there: str, here: str, payload: float) -> float | None:
        """Seconds to send so many bytes; None where no way leads."""
        if there == here:
            return 0.0
        route = self._route(there, here)
        return None if route is None else transfer_seconds(route, payload)

    def held(self, block: Block) -> tuple[float, ...]:
        """Bytes that each operator of a layer holds: weights, and with attention the KV cache."""
        tokens = self.batch.decode_context + self.batch.tokens
        layer = block.layers[0] if block.layers else -1
        cache = sum(
            c.bytes_per_token * tokens + c.state_bytes * self.batch.sequences
            for c in self.graph.caches
            if layer in c.layers
        )
        keeps = next((op.name for op in block.ops if op.spec.depends == CONTEXT), None)
        return tuple(op.spec.weight_bytes + cache * (op.name == keeps) for op in block.ops)

    @cached_property
    def stream_bytes(self) -> float:
        """Bytes that a layer hands to the next one."""
        layers = [block for block in self.graph.blocks if block.layers] or self.graph.blocks
        return self.result(layers[0].ops[-1])

    def _seconds(self, op: Op, name: str) -> float:
        device, batch, work = self.site.devices[name], self.batch, op.work(self.batch)
        model, home = self.site.cost_model(name), name == self.site.default
        counted = 1.0 if home else 1.0 - self.hidden
        if not (device.kind == "pim" and not home and isinstance(work, AttentionWork)):
            return counted * model.cost(work).seconds
        # Decodes attend in memory, prefills on the default device.
        seconds = 0.0
        if batch.decodes:
            seconds = counted * model.cost(op.work(replace(batch, prefills=()))).seconds
        if batch.prefills:
            alone = op.work(BatchShape(batch.prefills))
            seconds += self.site.cost_model(self.site.default).cost(alone).seconds
        return seconds

    def _route(self, there: str, here: str) -> Route | None:
        try:
            return self.site.topology.route(there, here)
        except UnsupportedError:
            return None

    @cached_property
    def _tied(self) -> bool:
        heads = (op.spec for op, _ in self.graph.weighted_ops() if isinstance(op.spec, LmHead))
        return any(head.tied for head in heads)
