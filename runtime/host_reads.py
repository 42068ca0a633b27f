"""Weights that a device reads from the memory of its host whenever it needs them."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.ops.experts import Experts
from servesim.hardware.link import Link

#: What a breakdown calls them.
WEIGHTS = "weights from host"


@dataclass(frozen=True)
class HostReads:
    """What the kernels of a placement's default device read over the link to its host.

    A kernel holds the link as long as itself: it computes with what arrives (zero-copy access, as
    vLLM's ``cpu_offload_gb``). Of experts only those that got a token are read.

    Attributes:
        share: of the weights of each operator that are outside.
        link: to the host.
        way: how a schedule calls the link.
        experts_only: whether only routed experts are outside.
    """

    share: float
    link: Link
    way: str
    experts_only: bool = False

    def concerns(self, op: Op) -> bool:
        """Whether ``op``, of a layer, has weights outside."""
        return bool(op.spec.weight_bytes) and (
            not self.experts_only or isinstance(op.spec, Experts)
        )

    def seconds(self, op: Op, batch: BatchShape) -> float:
        """Seconds to read what one run of ``op`` needs for ``batch``."""
        if not self.concerns(op) or not op.runs(batch):
            return 0.0
        return self.share * read_bytes(op, batch) / self.link.bandwidth


def read_bytes(op: Op, batch: BatchShape) -> float:
    """Bytes of weights that one run of ``op`` reads: of experts, those that got a token."""
    spec = op.spec
    if isinstance(spec, Experts):
        return spec.weight_bytes * spec.work(batch, op.name).touched / spec.held
    return spec.weight_bytes
