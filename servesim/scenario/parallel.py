"""Devices beyond a tensor-parallel group: pipeline stages, ranks that share experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from servesim.errors import InputError, UnsupportedError
from servesim.fields import checked_table, field_types
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.context import kv_heads, share_context
from servesim.graph.passes.expert import ExpertOptions, has_experts, spread_experts
from servesim.graph.passes.stage import split_stages
from servesim.graph.routing import ROUTINGS
from servesim.graph.work import CollectiveWork
from servesim.hardware.device import Device
from servesim.hardware.placement import Placement
from servesim.hardware.topology import Topology
from servesim.models.load import load_graph
from servesim.runtime.config import EngineConfig
from servesim.runtime.parallel.shares import PrefillShareStepModel
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.step_model import CompiledStepModel
from servesim.scenario.energy import powered_step_model
from servesim.scenario.sections import HardwareSection, Instance, ModelSection

#: Tensors that vLLM sends from stage to stage: hidden states and residual.
_SENT = 2


def spread(graph: OpGraph, section: ModelSection, engine: EngineConfig) -> OpGraph:
    """``graph``, one tensor-parallel rank's, with its experts where the engine has them.

    Raises:
        UnknownNameError: no such routing.
        InputError: options that contradict each other, or that a dense model has no use for.
        UnsupportedError: the experts do not divide among the devices.
    """
    if not has_experts(graph):
        if engine.enable_expert_parallel or section.expert_routing is not None:
            raise InputError(f"{graph.model} has no experts")
        return graph
    table = dict(section.expert_routing or {})
    kind = table.pop("kind", "uniform")
    given = checked_table(ROUTINGS.get(kind), table, "[model] expert_routing", Path())
    names = set(field_types(ExpertOptions)) & set(field_types(EngineConfig))
    options = {name: getattr(engine, name) for name in sorted(names)}
    return spread_experts(graph, ExpertOptions(**options, routing=ROUTINGS.build(kind, given)))


def shared_context(graph: OpGraph, section: ModelSection, engine: EngineConfig) -> OpGraph:
    """``graph`` with its KV cache shared by tokens as the engine says.

    Raises:
        UnsupportedError: the cache cannot be shared so.
    """
    decode, prefill = engine.decode_context_parallel_size, engine.prefill_context_parallel_size
    if decode * prefill == 1:
        return graph
    if prefill > 1 and engine.data_parallel_size > 1 and has_experts(graph):
        raise UnsupportedError(
            "prefill_context_parallel_size above 1 with experts shared by data-parallel ranks"
        )
    heads = kv_heads(load_graph(section.id, dtype=section.dtype))
    return share_context(graph, decode, prefill, total_kv_heads=heads)


def rank_names(instance: Instance, *, in_waves: bool) -> list[tuple[str, str]]:
    """The names of an instance's engines, one a data-parallel rank, and of the waves they form.

    Args:
        in_waves: ranks share experts, so that their steps wait for each other.
    """
    names = [instance.name]
    if instance.count > 1:
        names = [f"{instance.name}-{i}" for i in range(instance.count)]
    ranks = instance.engine.data_parallel_size
    if ranks == 1:
        return [(name, "") for name in names]
    return [(f"{name}/dp{i}", name if in_waves else "") for name in names for i in range(ranks)]


def stage_placements(
    graph: OpGraph, stages: int, place: Callable[[OpGraph, int], Placement]
) -> tuple[Placement, ...]:
    """``graph`` cut into the stages of a pipeline, each placed on devices of its own.

    Args:
        place: places the graph of a stage, given its number.

    Raises:
        UnsupportedError: fewer layers than stages, or the device has no link to a next stage.
        ServesimError: as ``place``.
    """
    if stages == 1:
        return (place(graph, 0),)
    graphs = enumerate(split_stages(graph, stages))
    found = tuple(_own_devices(place(one, number), number) for number, one in graphs)
    hop_seconds(found[0])(1)  # the link joins two devices, or raises
    return found


def _own_devices(placement: Placement, stage: int) -> Placement:
    """``placement`` on equal devices, named after ``stage``."""

    def own(name: str) -> str:
        return f"{name}/pp{stage}"

    topology = placement.topology
    edges = tuple((own(a), own(b), link) for a, b, link in topology.edges)
    return replace(
        placement,
        devices={own(name): device for name, device in placement.devices.items()},
        default=own(placement.default),
        where={key: own(name) for key, name in placement.where.items()},
        topology=Topology(tuple(map(own, topology.nodes)), edges),
        costs={own(name): costs for name, costs in placement.costs.items()},
    )


def hop_seconds(stage: Placement) -> Callable[[int], float]:
    """Seconds to send the hidden states of so many tokens to the next stage.

    Each tensor-parallel rank sends its share to its peer; they gather the whole there
    (vLLM, ``GroupCoordinator.send_tensor_dict``).
    """
    graph, ranks = stage.graph, stage.graph.tensor_parallel_size
    token = _SENT * graph.hidden_size * bytes_per_element(graph.dtype)

    def hop(tokens: int) -> float:
        whole = tokens * token
        send = CollectiveWork("send", whole / ranks, 2, "pp", graph.dtype)
        gather = CollectiveWork("all_gather", whole, ranks, "tp", graph.dtype)
        return sum(stage.cost(stage.default, work).seconds for work in (send, gather))

    return hop


def step_model_of(
    section: HardwareSection,
    device: Device,
    placements: Sequence[Placement],
    engine: EngineConfig,
) -> CompiledStepModel | StagedStepModel:
    """The step model of an engine on ``placements``, one a stage.

    Raises:
        InputError: as ``powered_step_model``.
        UnsupportedError: a power cap on ranks that share prompts.
    """
    sizes, shares = engine.cudagraph_capture_sizes, engine.prefill_context_parallel_size
    models: list[CompiledStepModel]
    if shares == 1:
        models = [powered_step_model(section, device, one, sizes) for one in placements]
    elif section.power_limit_watts is not None:
        raise UnsupportedError("power_limit_watts with prefill_context_parallel_size above 1")
    else:
        models = [PrefillShareStepModel(one, sizes, prefill_ranks=shares) for one in placements]
    if len(models) == 1:
        return models[0]
    return StagedStepModel(tuple(models), hop_seconds(placements[0]))
