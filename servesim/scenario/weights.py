"""Weights in host memory: how much of them, and the step model that reads them."""

from __future__ import annotations

from collections.abc import Sequence

from servesim.errors import InputError, UnsupportedError
from servesim.graph.op import Op
from servesim.graph.opgraph import OpGraph
from servesim.hardware.device import Device
from servesim.hardware.placement import Placement
from servesim.runtime.config import EngineConfig
from servesim.runtime.host_reads import HostReads
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.speculative_step import SpeculativeStepModel
from servesim.runtime.step_model import CompiledStepModel
from servesim.runtime.streamed_step import StreamedStepModel, offloadable
from servesim.runtime.waiting_step import WaitingStepModel
from servesim.units import GIB, gib

StepModels = CompiledStepModel | StagedStepModel | SpeculativeStepModel | WaitingStepModel


def streamed(
    model: CompiledStepModel | StagedStepModel | SpeculativeStepModel,
    engine: EngineConfig,
    graph: OpGraph,
    device: Device,
) -> StepModels:
    """``model`` with what ``cpu_offload_gb`` leaves in host memory.

    Raises:
        InputError: the layers, or the experts, have fewer weights than that.
        UnsupportedError: a device without a link to a host; a pipeline, speculation or a drafter.
    """
    if not engine.cpu_offload_gb:
        return model
    if not isinstance(model, CompiledStepModel):
        raise UnsupportedError("cpu_offload_gb with a pipeline or with speculative_config")
    if device.host_link is None:
        raise UnsupportedError(f"cpu_offload_gb: {device.name} has no link to a host")
    experts = engine.cpu_offload_params == "experts"
    layers = [(op, block.count) for block in graph.blocks if block.layers for op in block.ops]
    ops = offloadable(layers, experts_only=experts)
    share = _share(engine, ops, graph.model)
    return StreamedStepModel(model, ops, share, device.host_link, engine.offload_prefetch_step > 0)


def host_reads(placement: Placement, engine: EngineConfig) -> HostReads | None:
    """What ``cpu_offload_gb`` has the default device of ``placement`` read; None without.

    A host that is among the devices sends its results over the same link.

    Raises:
        InputError: the layers, or the experts, have fewer weights than that on the device.
        UnsupportedError: a device without a link to a host; weights fetched ahead.
    """
    if not engine.cpu_offload_gb:
        return None
    if engine.offload_prefetch_step > 0:
        raise UnsupportedError("[placement] together with offload_prefetch_step")
    graph, home = placement.graph, placement.default
    device = placement.devices[home]
    if device.host_link is None:
        raise UnsupportedError(f"cpu_offload_gb: {device.name} has no link to a host")
    hosts = (name for name, one in placement.devices.items() if one.kind == "cpu")
    here = [
        (op, block.count)
        for block in graph.blocks
        if block.layers
        for op in block.ops
        if placement.name_of(block, op) == home
    ]
    experts = engine.cpu_offload_params == "experts"
    share = _share(engine, offloadable(here, experts_only=experts), graph.model)
    return HostReads(share, device.host_link, f"{next(hosts, 'host')}->{home}", experts)


def _share(engine: EngineConfig, ops: Sequence[tuple[Op, int]], model: str) -> float:
    """The share of the weights of ``ops``, each run so often, that are outside."""
    there, wanted = sum(op.spec.weight_bytes * n for op, n in ops), engine.cpu_offload_gb * GIB
    if wanted > there:
        what = "experts" if engine.cpu_offload_params == "experts" else "layers"
        raise InputError(f"cpu_offload_gb: the {what} of {model} have {gib(there)} a device")
    return wanted / there
