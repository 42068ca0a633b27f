"""Operators of an instance on several devices: where they run, and where the KV cache is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from servesim.errors import CapacityError, InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT
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
from servesim.runtime.energy.capped import CappedScheduledStepModel
from servesim.runtime.scheduled_step import ScheduledStepModel
from servesim.scenario.energy import device_power
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
    given = {device.name: costs} if costs is not None else {}
    parts = section.sub_batches

    def step(placement: Placement, batch: BatchShape) -> float:
        return ScheduledStepModel(placement, sub_batches=parts).seconds(batch)

    site = replace(
        _site(section, device), costs=given, collectives=collectives, step=step, parts=parts
    )
    found = site.placement(PLACERS.build(section.kind, section.options).place(graph, site))
    return found if found.where or parts > 1 else None


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
    drafter = graph.kv_bytes_per_token - placement.graph.kv_bytes_per_token
    kept[placement.default] = kept.get(placement.default, 0.0) + drafter
    kept = {name: there for name, there in kept.items() if there}
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

    The default device keeps its power limit, if one is set.

    Raises:
        UnsupportedError: stages, which have devices of their own, or weights outside the default
            device's memory beside those on other devices.
        InputError: as ``device_power``.
    """
    ranks, capped = engine.prefill_context_parallel_size, hardware.power_limit_watts is not None
    others = {
        "pipeline_parallel_size": engine.pipeline_parallel_size > 1,
        "cpu_offload_gb": engine.cpu_offload_gb > 0,
        "power_limit_watts and prefill_context_parallel_size": capped and ranks > 1,
    }
    for name, used in others.items():
        if used:
            raise UnsupportedError(f"[placement] together with {name}")
    sizes, parts = tuple(sorted(engine.cudagraph_capture_sizes)), section.sub_batches
    if not capped:
        return ScheduledStepModel(placement, sizes, parts, ranks)
    device = placement.devices[placement.default]
    power = device_power(hardware, device)
    if power is None:
        raise InputError(f"what {device.name} draws is not known: give [hardware] power, too")
    return CappedScheduledStepModel(placement, sizes, parts, ranks, power=power)


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
