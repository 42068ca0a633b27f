"""Operators of an instance on several devices: where they run, and where the KV cache is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from servesim.hardware.placers import PLACERS, Placed, Placer, Site
from servesim.hardware.topology import Topology
from servesim.models.config import ModelConfig
from servesim.models.memory import MemoryOptions, MemoryPlan, plan_memory
from servesim.runtime.config import EngineConfig
from servesim.runtime.energy.capped import CappedScheduledStepModel
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.scheduled_step import ScheduledStepModel
from servesim.scenario.energy import device_power
from servesim.scenario.parallel import hop_seconds, stage_placements
from servesim.scenario.sections import HardwareSection, PlacementSection
from servesim.scenario.weights import host_reads
from servesim.units import GIB


def placed(
    section: PlacementSection,
    graph: OpGraph,
    device: Device,
    costs: CostModel | None,
    collectives: CostModel | None,
    engine: EngineConfig,
) -> tuple[Placement, ...]:
    """The placements that the section asks for, one a pipeline stage, each on devices of its own.

    None when all is on ``device``, in one part.

    Raises:
        ServesimError: no such placer, device, operator or way; weights that do not fit.
        UnsupportedError: weights in host memory, whose reading the placer would have to weigh, or
            memory that computes, but not in all formats of a model, alone.
    """
    stages, outside = engine.pipeline_parallel_size, engine.cpu_offload_gb * GIB
    if section.kind == "none":
        _require_alone(section, device)
        if section.sub_batches == 1:
            return ()

        def alone(stage: OpGraph, number: int) -> Placement:
            return Placement.tensor_parallel(stage, device, costs, collectives, outside)

        return stage_placements(graph, stages, alone)
    given = {device.name: costs} if costs is not None else {}
    parts = section.sub_batches

    def step(placement: Placement, batch: BatchShape) -> float:
        return ScheduledStepModel(placement, sub_batches=parts).seconds(batch)

    site = replace(
        _site(section, device),
        costs=given,
        collectives=collectives,
        outside_bytes=outside,
        step=step,
        parts=parts,
    )
    placer = PLACERS.build(section.kind, section.options)
    if outside and _fills_memory(placer):
        raise UnsupportedError(f"[placement] kind {section.kind!r} together with cpu_offload_gb")
    found = _by_stage(placer, graph, site, stages)
    return found if parts > 1 or any(one.where for one in found) else ()


def _require_alone(section: PlacementSection, device: Device) -> None:
    """Refuse devices that nothing is placed on, and one that cannot run a whole model."""
    if section.devices:
        raise InputError("[placement] has devices, but no kind of placement that uses them")
    if device.kind == "pim" and "fp32" not in device.peak_flops:  # of routers and samplers
        raise UnsupportedError(
            f"{device.name} is memory that computes and serves no model alone: name the device"
            " beside it as hardware, and it in [placement] devices"
        )


def _fills_memory(placer: Placer) -> bool:
    return bool(getattr(placer, "fills_memory", False))


def _by_stage(placer: Placer, graph: OpGraph, site: Site, stages: int) -> tuple[Placement, ...]:
    """The stages, each placed by itself where memory matters, else as the whole graph is."""

    def at(number: int) -> Site:
        return replace(site, handed=number > 0, hands_on=number < stages - 1)

    def by_itself(stage: OpGraph, number: int) -> Placement:
        return at(number).placement(placer.place(stage, at(number)))

    if stages == 1 or _fills_memory(placer):
        return stage_placements(graph, stages, by_itself)
    whole = placer.place(graph, site)

    def as_whole(stage: OpGraph, number: int) -> Placement:
        here = {block.name for block in stage.blocks}
        where = {key: name for key, name in whole.where.items() if key[0] in here}
        return at(number).placement(Placed(stage, where))

    return stage_placements(whole.graph, stages, as_whole)


def placed_memory(
    stages: Sequence[Placement],
    graph: OpGraph,
    device: Device,
    options: MemoryOptions,
    model: ModelConfig,
) -> MemoryPlan:
    """What the engine keeps in memory, with the weights and the KV cache where they are placed.

    A layer's KV cache is on the device that runs its attention; the device with the fewest tokens
    of room decides how many blocks there are, of the stage with the fewest. On any but the default
    one the cache may take all that weights leave of the share that the engine may use.

    Raises:
        CapacityError: weights and reserves leave no KV cache, or one that is too small.
    """
    capacity = device.memory.capacity_bytes
    if not stages:
        return plan_memory(graph, capacity, options, model)
    placed_kv = sum(one.graph.kv_bytes_per_token for one in stages)
    drafter = graph.kv_bytes_per_token - placed_kv if len(stages) == 1 else 0.0

    def plan_of(number: int) -> Callable[[MemoryOptions], MemoryPlan]:
        return lambda given: plan_memory(graph, capacity, given, model, number)

    plans = [_stage_memory(one, drafter, options, plan_of(i)) for i, one in enumerate(stages)]
    return min(plans, key=lambda plan: plan.kv_cache_blocks)


def _stage_memory(
    placement: Placement,
    drafter: float,
    options: MemoryOptions,
    plan_with: Callable[[MemoryOptions], MemoryPlan],
) -> MemoryPlan:
    """The memory of one stage.

    Args:
        drafter: KV bytes of a token on the default device beside the placement's.
        plan_with: the default device's plan by its options.
    """
    names = [name for name in placement.devices if name != placement.default]
    outside = sum(placement.weight_bytes(name) for name in names)
    options = replace(options, cpu_offload_gb=options.cpu_offload_gb + outside / GIB)
    plan = plan_with(options)
    kept = _kv_bytes(placement)
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
        model = placement.graph.model
        raise CapacityError(f"the weights of {model} leave no room for its KV cache")
    extra = (whole - plan.kv_cache_bytes) / GIB
    again = plan_with(replace(options, cpu_offload_gb=options.cpu_offload_gb + extra))
    share = kept.get(placement.default, 0.0) / total
    return replace(again, weight_bytes=plan.weight_bytes, kv_share=share)


def scheduled(
    section: PlacementSection,
    stages: Sequence[Placement],
    hardware: HardwareSection,
    engine: EngineConfig,
) -> ScheduledStepModel | StagedStepModel:
    """The step model of operators on several devices, or of a batch in several parts.

    The default device, of every stage, keeps its power limit, if one is set.

    Raises:
        UnsupportedError: a power limit on ranks that share prompts; as ``host_reads``.
        InputError: as ``device_power`` and ``host_reads``.
    """
    models = tuple(_scheduled(section, one, hardware, engine) for one in stages)
    return models[0] if len(models) == 1 else StagedStepModel(models, hop_seconds(stages[0]))


def _scheduled(
    section: PlacementSection, placement: Placement, hardware: HardwareSection, engine: EngineConfig
) -> ScheduledStepModel:
    ranks, capped = engine.prefill_context_parallel_size, hardware.power_limit_watts is not None
    if capped and ranks > 1:
        together = "power_limit_watts and prefill_context_parallel_size"
        raise UnsupportedError(f"[placement] together with {together}")
    sizes, parts = tuple(sorted(engine.cudagraph_capture_sizes)), section.sub_batches
    reads = host_reads(placement, engine)
    if not capped:
        return ScheduledStepModel(placement, sizes, parts, ranks, reads)
    device = placement.devices[placement.default]
    power = device_power(hardware, device)
    if power is None:
        raise InputError(f"what {device.name} draws is not known: give [hardware] power, too")
    return CappedScheduledStepModel(placement, sizes, parts, ranks, reads, power=power)


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
        return hardware.given_link(table, "[placement] devices: link")
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
