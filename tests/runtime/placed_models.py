"""Step models of a small mixture placed over slow devices, for generated deployments."""

from __future__ import annotations

from functools import cache

import numpy as np

from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.experts import PooledExperts
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.lm_head import LmHead
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.link import Link
from servesim.hardware.load import load_device
from servesim.hardware.placers import PLACERS, Site
from servesim.hardware.topology import Topology
from servesim.runtime.scheduled_step import ScheduledStepModel

OPTIONS: dict[str, dict[str, object]] = {
    "by_kind": {"ops": {"attention": "pim", "experts": "cpu"}},
    "by_layer": {"layers": {"1-2": "second"}},
    "memory_fit": {"share": 0.5},
    "greedy": {"decodes": 4, "context": 40, "share": 0.5},
    "min_cost": {"decodes": 4, "context": 40, "share": 0.5},
}


def _graph() -> OpGraph:
    experts = PooledExperts(4, 2, 64, 64, parallel="expert", replicas=2)
    ops = (
        Op("qkv_proj", Gemm(192, 64), ("@stream",)),
        Op("attention", Attention(4, 4, 16, 16), ("qkv_proj",)),
        Op("o_proj", Gemm(64, 64), ("attention",)),
        Op("experts", experts, ("o_proj",)),
    )
    head = Block("head", (Op("lm_head", LmHead(100, 64)),))
    layers = Block("layer", ops, (0, 1, 2, 3))
    weights = sum(op.spec.weight_bytes for op in ops) * 4 + head.ops[0].spec.weight_bytes
    return OpGraph("toy", (layers, head), (), 0, 0, weights, 64, 100, 4096)


@cache
def placed(kind: str, parts: int) -> ScheduledStepModel:
    """The step model of placer ``kind``, of batches in ``parts`` parts."""
    graph, wire = _graph(), Link("wire", 1e7, 1e-3)
    room = graph.weight_bytes

    def slow(name: str, device_kind: str, share: float, speed: float) -> Device:
        memory = MemoryTier("memory", share * room, 1e7 * speed)
        return Device(name, device_kind, {"bf16": 1e8 * speed}, memory)

    devices = {
        "gpu": slow("gpu", "gpu", 1.0, 2.0),
        "second": slow("second", "gpu", 1.0, 1.0),
        "cpu": slow("cpu", "cpu", 10.0, 0.5),
        "pim": load_device("hbm_pim"),
    }
    edges = tuple(("gpu", name, wire) for name in devices if name != "gpu")
    site = Site(devices, Topology(tuple(devices), edges))
    found = site.placement(PLACERS.build(kind, OPTIONS[kind]).place(graph, site))
    return ScheduledStepModel(found, sub_batches=parts)


def any_placed(rng: np.random.Generator) -> ScheduledStepModel:
    """One of them, drawn by ``rng``."""
    return placed(str(rng.choice(sorted(OPTIONS))), int(rng.integers(1, 4)))
