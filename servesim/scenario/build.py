"""From a scenario to what runs: graphs, devices, placements, KV blocks, engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from servesim.errors import InputError, UnsupportedError
from servesim.fields import field_types
from servesim.graph.batch import BatchShape
from servesim.graph.kv_layout import with_checkpoints
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.expert import has_experts
from servesim.graph.passes.unfuse import unfuse
from servesim.hardware import load as hardware
from servesim.hardware.device import Device
from servesim.hardware.placement import Placement
from servesim.models.config import ModelConfig, resolve
from servesim.models.load import load_graph
from servesim.models.memory import MemoryOptions, MemoryPlan, plan_memory
from servesim.models.quantisation import quantise
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance as Engine
from servesim.runtime.routers import ROUTERS, Router
from servesim.runtime.step import LinearStepModel
from servesim.runtime.system import System
from servesim.runtime.tiers.options import Offload
from servesim.runtime.workloads import WORKLOADS, Workload
from servesim.scenario.adapters import adapter_load_seconds
from servesim.scenario.attention_ffn import stepping, taken_apart
from servesim.scenario.encoder import (
    embedding_bytes,
    encoder_memory,
    encoder_of,
    encoding_config,
)
from servesim.scenario.energy import clocked_costs
from servesim.scenario.expert_offload import expert_offload_of
from servesim.scenario.graphs import resident_graph, served_graph
from servesim.scenario.host import host_times
from servesim.scenario.measured_costs import measured_costs
from servesim.scenario.offload import offload_of
from servesim.scenario.parallel import rank_names, stage_placements, step_model_of
from servesim.scenario.placing import placed, placed_memory, scheduled
from servesim.scenario.sections import Instance, ModelSection
from servesim.scenario.spec import Scenario
from servesim.scenario.speculation import drafter_of, speculative
from servesim.scenario.system import serving
from servesim.scenario.weights import StepModels, streamed
from servesim.units import GIB


@dataclass(frozen=True)
class Served:
    """One ``[[instance]]``: a model on its devices, ready to run.

    Attributes:
        graph: of one rank, quantised as it is stored.
        placements: its stages, one tensor-parallel group each.
        memory: of one device.
        config: the engine's options with the model's limits filled in.
        engines: the ``count`` equal engines.
        beside: other devices that each of the ``count`` has to itself, and how many.
    """

    instance: Instance
    graph: OpGraph
    device: Device
    placements: tuple[Placement, ...]
    memory: MemoryPlan
    config: EngineConfig
    step_model: StepModels
    engines: tuple[Engine, ...]
    beside: tuple[tuple[Device, int], ...] = ()

    def with_engines(
        self, offload: Offload | None, around: Mapping[str, Any], *, in_waves: bool
    ) -> Served:
        """This with its engines.

        Args:
            offload: memories below the devices'.
            around: further fields of ``Engine``.
            in_waves: data-parallel ranks wait for each other.
        """
        config, model, memory = self.config, self.step_model, self.memory
        blocks = memory.kv_cache_blocks
        groups = with_checkpoints(memory.kv_groups, self.graph)
        engines = tuple(
            Engine(config, model, blocks, name, wave, groups, offload=offload, **around)
            for name, wave in rank_names(self.instance, in_waves=in_waves)
        )
        return replace(self, engines=engines)

    @property
    def placement(self) -> Placement:
        """The first stage, for most engines the only one."""
        return self.placements[0]

    @property
    def devices(self) -> int:
        """Devices of all the engines together."""
        return self.own_devices + self.instance.count * sum(count for _, count in self.beside)

    @property
    def own_devices(self) -> int:
        """Those of the instance's own kind."""
        return len(self.engines) * len(self.placements) * self.ranks

    @property
    def ranks(self) -> int:
        """Devices of a stage: tensor-parallel ranks, for each that shares prompts."""
        return self.graph.tensor_parallel_size * self.config.prefill_context_parallel_size


@dataclass(frozen=True)
class Deployment:
    """Everything a scenario needs to run."""

    scenario: Scenario
    served: tuple[Served, ...]
    workload: Workload
    router: Router
    system: System

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All engines, in the order in which results number them."""
        return tuple(engine for one in self.served for engine in one.engines)


def build(scenario: Scenario) -> Deployment:
    """Trace, quantise, place and size every instance of ``scenario``.

    Raises:
        UnknownNameError: no such model, device or number format.
        CapacityError: a model does not fit.
        UnsupportedError: a model, or a combination of options, cannot be simulated.
        InputError: an option cannot be used.
    """
    served = tuple(serve(instance) for instance in scenario.instances)
    longest = max(
        (one.memory.max_model_len for one in served if one.instance.role != "encode"), default=0
    )
    workload = WORKLOADS.build(scenario.workload.kind, _within(scenario, longest))
    router = ROUTERS.build(scenario.router.kind, scenario.router.options)
    system = scenario.around.system([engine for one in served for engine in one.engines])
    return Deployment(scenario, served, workload, router, system)


def serve(instance: Instance) -> Served:
    """One instance, ready to run.

    Raises:
        ServesimError: as ``build``.
    """
    device = hardware.load_device(instance.hardware.device)
    engine = _engine_on(device, instance.engine)
    model = resolve(instance.model.id)
    if instance.role == "encode":
        return _serve_encoder(instance, device, engine, model)
    if instance.placement.apart:
        return _serve_apart(instance, device, engine, model)
    whole = load_model(model, instance.model, engine)
    graph = served_graph(whole, instance.model, engine, device)
    drafter = drafter_of(engine, graph, model)
    experts = expert_offload_of(instance.expert_offload, graph, device, engine)
    outside = experts.outside_bytes if experts else engine.cpu_offload_gb * GIB
    options = replace(memory_options(engine, device), cpu_offload_gb=outside / GIB)
    resident = resident_graph(graph, drafter)
    costs, collectives = measured_costs(instance.hardware, device, graph)
    costs = clocked_costs(instance.hardware, device, costs)
    stages = engine.pipeline_parallel_size
    over = placed(instance.placement, graph, device, costs, collectives, engine)
    memory = placed_memory(over, resident, device, options, model)

    def alone(stage: OpGraph, number: int) -> Placement:
        return Placement.tensor_parallel(stage, device, costs, collectives, outside)

    placements = over or stage_placements(graph, stages, alone)
    config = _completed(engine, graph, memory)
    target = (
        scheduled(instance.placement, over, instance.hardware, config)
        if over
        else step_model_of(instance.hardware, device, placements, config)
    )
    drafting = speculative(target, config, drafter, instance.hardware, device, collectives)
    step_model = drafting if over else streamed(drafting, config, graph, device)
    step_model = experts.step_model(step_model) if experts else step_model
    offload = offload_of(instance.offload, graph, engine.pipeline_parallel_size)
    step_model.seconds(BatchShape.of_tokens(1))  # every link joins enough devices, or raises
    around = {
        **serving(instance, graph),
        **host_times(instance.hardware, device, graph),
        "adapter_load_s": adapter_load_seconds(graph, device),
        "encoder": encoder_of(instance, engine, device, model),
    }
    made = Served(instance, graph, device, placements, memory, config, step_model, ())
    return made.with_engines(offload, around, in_waves=has_experts(graph))


def _engine_on(device: Device, engine: EngineConfig) -> EngineConfig:
    """``engine`` with vLLM's defaults for ``device``."""
    engine = engine.on(device.memory.capacity_bytes, device.name)
    if device.kind == "cpu":  # nothing is captured, and no host runs ahead of its own processor
        engine = replace(engine, async_scheduling=False, enforce_eager=True)
    return engine


def _serve_apart(
    instance: Instance, device: Device, engine: EngineConfig, model: ModelConfig
) -> Served:
    """An instance with attention on its own devices and FFNs on others."""
    apart = taken_apart(instance, engine, model)
    graph, whole = apart.attention, apart.whole
    costs, collectives = measured_costs(instance.hardware, device, graph)
    costs = clocked_costs(instance.hardware, device, costs)
    placement = apart.placement(device, engine, costs, collectives)
    options = memory_options(engine, device)
    memory = plan_memory(graph, device.memory.capacity_bytes, options, model)
    config = _completed(engine, graph, memory)
    step_model = stepping(placement, instance, config)
    step_model.seconds(BatchShape.of_tokens(1))  # every link joins enough devices, or raises
    offload = offload_of(instance.offload, graph, engine.pipeline_parallel_size)
    around = {
        **serving(instance, graph),
        **host_times(instance.hardware, device, whole),
        "encoder": encoder_of(instance, engine, device, model),
    }
    beside = ((apart.device, apart.count),)
    made = Served(instance, whole, device, (placement,), memory, config, step_model, (), beside)
    return made.with_engines(offload, around, in_waves=True)


def _serve_encoder(
    instance: Instance, device: Device, engine: EngineConfig, model: ModelConfig
) -> Served:
    """An instance that encodes images for others."""
    encoder = encoder_of(instance, engine, device, model)
    if encoder is None:
        raise UnsupportedError(f"role 'encode': {model.name} has no vision tower")
    graph, memory = encoder.graph, encoder_memory(encoder, engine, model)
    config = encoding_config(engine, memory)
    around = {
        **serving(instance, graph),
        **host_times(instance.hardware, device, graph),
        "encoder": encoder,
        "embedding_bytes_per_token": embedding_bytes(encoder, model),
    }
    made = Served(
        instance, graph, device, (encoder.placement,), memory, config, encoder.step_model, ()
    ).with_engines(None, around, in_waves=False)
    # Prompts take no time of their own: they are images.
    engines = tuple(replace(one, step_model=LinearStepModel()) for one in made.engines)
    return replace(made, engines=engines)


def load_model(config: ModelConfig, section: ModelSection, engine: EngineConfig) -> OpGraph:
    """The graph of one rank, quantised as the section and the engine say.

    Raises:
        ServesimError: as ``load_graph`` and ``quantise``.
    """
    graph = load_graph(
        section.id,
        tensor_parallel_size=engine.tensor_parallel_size,
        dtype=section.dtype,
        enable_expert_parallel=engine.enable_expert_parallel,
    )
    graph = quantise(graph, config, section.quantization, engine.kv_cache_dtype)
    return graph if section.fused else unfuse(graph)


def memory_options(engine: EngineConfig, device: Device) -> MemoryOptions:
    """What the memory depends on of the engine's options."""
    shared = set(field_types(MemoryOptions)) & set(field_types(EngineConfig))
    given = {name: getattr(engine, name) for name in sorted(shared)}
    return MemoryOptions(**given, compute_units=device.cores)


def _completed(engine: EngineConfig, graph: OpGraph, memory: MemoryPlan) -> EngineConfig:
    """The engine's options with the limits that the model sets."""
    if memory.max_model_len > graph.max_model_len:
        raise InputError(
            f"max_model_len {memory.max_model_len} is longer than the context of {graph.model},"
            f" {graph.max_model_len}"
        )
    return replace(engine, max_model_len=memory.max_model_len, block_size=memory.block_size)


def _within(scenario: Scenario, max_model_len: int) -> Mapping[str, Any]:
    """The workload's options; one that checks lengths learns the longest context there is."""
    options = scenario.workload.options
    if "max_model_len" not in field_types(WORKLOADS.get(scenario.workload.kind)):
        return options
    return {"max_model_len": max_model_len, **options}
