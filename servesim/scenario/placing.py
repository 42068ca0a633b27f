"""Operators of an instance on several devices: where they run, and where the KV cache is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from servesim.errors import CapacityError, InputError, UnsupportedError
from servesim.graph.op import CONTEXT, GROUP
from servesim.graph.opgraph import OpGraph
from servesim.hardware import load as hardware
from servesim.hardware.cost import CostModel
from servesim.hardware.device import Device
from servesim.hardware.link import Link
from servesim.hardware.placement import Placement
from servesim.hardware.placers import PLACERS, Site
from servesim.hardware.topology import Topology
from servesim.models.config import ModelConfig
from servesim.models.memory import MemoryOptions, MemoryPlan, plan_memory
from servesim.runtime.config import EngineConfig
from servesim.runtime.scheduled_step import ScheduledStepModel
from servesim.scenario.sections import HardwareSection, PlacementSection
from servesim.units import GIB


def placed(
    section: PlacementSection,
    graph: OpGraph,
    device: Device,
    costs: CostModel | None,
    collectives: CostModel | None,
) -> Placement | None:
    """The placement that the section asks for; None when all is on ``device``, in one part.

    Raises:
        ServesimError: no such placer, device, operator or way; weights that do not fit.
    """
    if section.kind == "none":
        if section.devices:
            raise InputError("[placement] has devices, but no kind of placement that uses them")
        if section.sub_batches == 1:
            return None
        return Placement.tensor_parallel(graph, device, costs, collectives)
    site = _site(section, device)
    found = PLACERS.build(section.kind, section.options).place(graph, site)
    where = {key: name for key, name in found.where.items() if name != device.name}
    if not where and section.sub_batches == 1:
        return None
    given = {device.name: costs} if costs is not None else {}
    return Placement(
        found.graph,
        site.devices,
        device.name,
        where,
        site.topology,
        costs=given,
        collectives=collectives,
    )


def placed_memory(
    placement: Placement | None,
    graph: OpGraph,
    device: Device,
    options: MemoryOptions,
    model: ModelConfig,
) -> MemoryPlan:
    """What the engine keeps in memory, with the weights and the KV cache where they are placed.

    A layer's KV cache is on the device that runs its attention; the device with the fewest tokens
    of room decides how many blocks there are. On any but the default one the cache may take all
    that weights leave of the share that the engine may use.

    Raises:
        CapacityError: weights and reserves leave no KV cache, or one that is too small.
    """
    if placement is None:
        return plan_memory(graph, device.memory.capacity_bytes, options, model)
    names = [name for name in placement.devices if name != placement.default]
    outside = sum(placement.weight_bytes(name) for name in names)
    options = replace(options, cpu_offload_gb=options.cpu_offload_gb + outside / GIB)
    plan = plan_memory(graph, device.memory.capacity_bytes, options, model)
    kept = _kv_bytes(placement)
    total, room = sum(kept.values()), {placement.default: plan.kv_cache_bytes}
    for name in names:
        capacity = placement.devices[name].memory.capacity_bytes
        room[name] = options.gpu_memory_utilization * capacity - placement.weight_bytes(name)
    if set(kept) <= {placement.default}:
        return plan
    whole = min(room[name] * total / there for name, there in kept.items())
    if whole <= 0:
        raise CapacityError(f"the weights of {graph.model} leave no room for its KV cache")
    extra = (whole - plan.kv_cache_bytes) / GIB
    options = replace(options, cpu_offload_gb=options.cpu_offload_gb + extra)
    again = plan_memory(graph, device.memory.capacity_bytes, options, model)
    return replace(again, weight_bytes=plan.weight_bytes)


def scheduled(
    section: PlacementSection, placement: Placement, hardware: HardwareSection, engine: EngineConfig
) -> ScheduledStepModel:
    """The step model of operators on several devices, or of a batch in several parts.

    Raises:
        UnsupportedError: an option that only engines on equal devices have.
    """
    pooled = any(op.spec.depends == GROUP for op, _ in placement.graph.weighted_ops())
    others = {
        "pipeline_parallel_size": engine.pipeline_parallel_size > 1,
        "prefill_context_parallel_size": engine.prefill_context_parallel_size > 1,
        "data_parallel_size": engine.data_parallel_size > 1 and pooled,
        "speculative_config": engine.speculative_config is not None,
        "cpu_offload_gb": engine.cpu_offload_gb > 0,
        "power_limit_watts": hardware.power_limit_watts is not None,
    }
    for name, used in others.items():
        if used:
            raise UnsupportedError(f"[placement] together with {name}")
    sizes = tuple(sorted(engine.cudagraph_capture_sizes))
    return ScheduledStepModel(placement, sizes, sub_batches=section.sub_batches)


def kv_share(placement: Placement) -> float:
    """Share of the KV cache that is on the default device."""
    kept = _kv_bytes(placement)
    return kept.get(placement.default, 0.0) / sum(kept.values()) if kept else 1.0


def _site(section: PlacementSection, device: Device) -> Site:
    """The devices by name, ``device`` first, and the links between them."""
    devices, edges = {device.name: device}, []
    for table in section.devices:
        given = dict(table)
        known = str(given.pop("device", ""))
        found = hardware.load_device(known)
        name, to = str(given.pop("name", known)), str(given.pop("to", device.name))
        if name in devices:
            raise InputError(f"[placement] devices: two are called {name!r}")
        edges.append((to, name, _link(given.pop("link", None), found, device)))
        devices[name] = replace(found, name=name)
        if given:
            raise InputError(f"[placement] devices: unknown {', '.join(given)}")
    return Site(devices, Topology(tuple(devices), tuple(edges)))


def _link(table: Mapping[str, object] | None, device: Device, other: Device) -> Link:
    """The link as given, or the device's own to its host."""
    if table is not None:
        named = {"name": "given link", **table}
        return hardware.build(Link, named, "[placement] devices: link")
    link = device.host_link or other.host_link
    if link is None:
        raise InputError(f"[placement] devices: {device.name} needs a link")
    return link


def _kv_bytes(placement: Placement) -> dict[str, float]:
    """KV bytes of a token on each device that keeps any."""
    graph, found = placement.graph, dict[str, float]()
    size = {layer: c.bytes_per_token for c in graph.caches for layer in c.layers}
    for block in graph.blocks:
        there = [placement.name_of(block, op) for op in block.ops if op.spec.depends == CONTEXT]
        for layer in block.layers:
            name = there[0] if there else placement.default
            if size.get(layer):
                found[name] = found.get(name, 0.0) + size[layer]
    return found
