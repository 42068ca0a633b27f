"""Experts outside the devices: what of them the devices hold, and the steps that fetch the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from servesim.errors import CapacityError, InputError, UnsupportedError
from servesim.graph.expert_cache import ExpertCache
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.experts import Experts, PooledExperts
from servesim.hardware import load as hardware
from servesim.hardware.device import Device
from servesim.hardware.link import Link
from servesim.runtime.config import EngineConfig
from servesim.runtime.expert_fetching import CachedExperts, Fetching
from servesim.runtime.expert_offload_step import ExpertOffloadStepModel
from servesim.runtime.step_model import CompiledStepModel
from servesim.scenario.expert_section import ExpertOffloadSection
from servesim.scenario.together import refuse_together
from servesim.units import GIB, gib

#: Experts that are on their way to the device or being computed, beside those in slots.
STAGED = 2


@dataclass(frozen=True)
class ExpertOffload:
    """The experts of one rank's graph in slots on its device, and all of them outside.

    Attributes:
        experts: of each block.
        outside_bytes: of a device's weights, less than if it held all experts.
        span: layers from the first with experts to the last, as a share of all.
    """

    experts: tuple[CachedExperts, ...]
    fetching: Fetching
    outside_bytes: float
    span: float

    def step_model(self, computing: object) -> ExpertOffloadStepModel:
        """``computing`` with what its steps wait for experts."""
        assert isinstance(computing, CompiledStepModel)  # as the options are plain
        return ExpertOffloadStepModel(computing, self.experts, self.fetching, self.span)


def expert_offload_of(
    section: ExpertOffloadSection, graph: OpGraph, device: Device, engine: EngineConfig
) -> ExpertOffload | None:
    """What the section describes for ``graph``, one rank's; None where it is not used.

    Raises:
        InputError: a value cannot be used, or a model without experts.
        UnsupportedError: a device without a link to a host; weights offloaded in another way.
        CapacityError: the host has no room for the experts.
    """
    if not section.used:
        return None
    found = list(_experts(graph))
    if not found:
        raise InputError(f"[expert_offload]: {graph.model} has no experts")
    _require_plain(engine)
    slots = _slots(section, found)
    whole = sum(spec.weight_bytes * block.count for block, _, spec in found)
    kept = sum(_size(spec) * slots * block.count for block, _, spec in found)
    staged = STAGED * max(_size(spec) for _, _, spec in found)
    if section.compute == "host":
        staged = 0.0
    ranks = engine.tensor_parallel_size * engine.data_parallel_size
    host = hardware.load_device(section.host) if section.host else None
    _require_room(section, host, ranks * (whole if section.policy != "static" else whole - kept))
    layers = sorted(layer for block, _, _ in found for layer in block.layers)
    return ExpertOffload(
        tuple(_cached(block, op, spec, slots, section.policy) for block, op, spec in found),
        _fetching(section, device, host, ranks),
        max(whole - kept - staged, 0.0),
        (layers[-1] - layers[0]) / graph.num_layers,
    )


def _require_plain(engine: EngineConfig) -> None:
    others = {
        "cpu_offload_gb": engine.cpu_offload_gb > 0,
        "pipeline_parallel_size": engine.pipeline_parallel_size > 1,
        "prefill_context_parallel_size": engine.prefill_context_parallel_size > 1,
        "speculative_config": engine.speculative_config is not None,
    }
    refuse_together("[expert_offload]", others)


def _experts(graph: OpGraph) -> Iterator[tuple[Block, Op, Experts]]:
    for block in graph.blocks:
        for op in block.ops:
            if isinstance(op.spec, Experts):
                yield block, op, op.spec


def _size(spec: Experts) -> float:
    """Bytes of one expert."""
    return spec.weight_bytes / spec.held


def _slots(section: ExpertOffloadSection, found: list[tuple[Block, Op, Experts]]) -> int:
    """Experts of each layer that a device holds."""
    held = min(spec.held for _, _, spec in found)
    if section.gpu_memory_gb is not None:
        layer = sum(_size(spec) * block.count for block, _, spec in found)
        return min(int(section.gpu_memory_gb * GIB / layer), held)
    slots = section.gpu_expert_slots or 0
    if slots > held:
        raise InputError(
            f"[expert_offload] gpu_expert_slots {slots}: a device has {held} experts of a layer"
        )
    return slots


def _cached(block: Block, op: Op, spec: Experts, slots: int, policy: str) -> CachedExperts:
    if isinstance(spec, PooledExperts) and spec.load is not None:
        chances, layers = spec.load.busiest, block.count * spec.load.kinds
        chances = np.sort(chances, axis=1)  # which expert it is does not matter
        chances, kind = np.unique(chances, axis=0, return_inverse=True)
        layers = np.bincount(kind.ravel(), weights=layers).astype(np.float64)
    else:
        chances = np.full((1, spec.held), spec.top_k / spec.experts)
        layers = np.array([float(block.count)])
    cache = ExpertCache(chances, layers, slots, policy)
    return CachedExperts(spec, op.label or op.name, cache, _size(spec))


def _fetching(
    section: ExpertOffloadSection, device: Device, host: Device | None, ranks: int
) -> Fetching:
    link = device.host_link
    if section.link is not None:
        link = hardware.given_link(section.link, "[expert_offload] link")
    if link is None:
        raise UnsupportedError(f"[expert_offload]: {device.name} has no link to a host")
    if host is not None:
        shared = host.memory.bandwidth * host.efficiency.memory / ranks
        link = Link(link.name, min(link.bandwidth, shared), link.latency)
    computes = section.compute != "stream"
    return Fetching(
        link,
        stream=section.compute != "host",
        host=host.cost_model if host is not None and computes else None,
        sharers=ranks,
        ahead=section.prefetch_accuracy if section.prefetch == "next_layer" else None,
    )


def _require_room(section: ExpertOffloadSection, host: Device | None, size: float) -> None:
    if section.host_memory_gb is not None:
        room = section.host_memory_gb * GIB
    elif host is not None:
        room = host.memory.capacity_bytes
    else:
        return
    if size > room:
        raise CapacityError(f"[expert_offload]: experts of {gib(size)} on a host of {gib(room)}")
