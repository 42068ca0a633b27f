"""Weights in host memory: how much of them, and the step model that reads them."""

from __future__ import annotations

from servesim.errors import InputError, UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.hardware.device import Device
from servesim.runtime.config import EngineConfig
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
    there = sum(op.spec.weight_bytes * count for op, count in ops)
    wanted = engine.cpu_offload_gb * GIB
    if wanted > there:
        what = "experts" if experts else "layers"
        raise InputError(f"cpu_offload_gb: the {what} of {graph.model} have {gib(there)} a device")
    return StreamedStepModel(
        model, ops, wanted / there, device.host_link, engine.offload_prefetch_step > 0
    )
