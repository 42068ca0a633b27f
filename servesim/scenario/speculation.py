"""Speculative decoding of a scenario: the drafter, what it keeps in memory, and its time."""

from __future__ import annotations

from servesim.errors import UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.draft_head import draft_head
from servesim.hardware.cost import CostModel
from servesim.hardware.device import Device
from servesim.hardware.placement import Placement
from servesim.models.config import MTP_KEYS, ModelConfig, resolve
from servesim.models.load import load_graph
from servesim.models.quantisation import quantise
from servesim.runtime.config import EngineConfig
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.speculative_step import SpeculativeStepModel
from servesim.runtime.step_model import CompiledStepModel
from servesim.scenario.energy import clocked_costs, powered_step_model
from servesim.scenario.sections import HardwareSection


def drafter_of(engine: EngineConfig, graph: OpGraph, config: ModelConfig) -> OpGraph | None:
    """What drafts for ``graph``, one rank's; None if nothing takes the device's time.

    Raises:
        ServesimError: the draft model cannot be had, the model has no layers of its own to draft
            with, or a pipeline, which cannot draft here.
    """
    speculation = engine.speculation
    if speculation is None:
        return None
    if engine.pipeline_parallel_size > 1:
        raise UnsupportedError("speculative_config with pipeline_parallel_size above 1")
    if speculation.method == "mtp" and not config.drafts_itself:
        raise UnsupportedError(
            f"speculative_config: {config.name} has no layers for method mtp (its config has no"
            f" {' or '.join(MTP_KEYS)})"
        )
    if not speculation.lookahead:
        return None
    if speculation.model is None:
        return draft_head(graph)
    ranks = engine.tensor_parallel_size
    drafter = load_graph(speculation.model, tensor_parallel_size=ranks)
    return quantise(drafter, resolve(speculation.model), None, engine.kv_cache_dtype)


def speculative(
    target: CompiledStepModel | StagedStepModel,
    engine: EngineConfig,
    drafter: OpGraph | None,
    section: HardwareSection,
    device: Device,
    collectives: CostModel | None,
) -> CompiledStepModel | StagedStepModel | SpeculativeStepModel:
    """``target`` with the drafting of its engine, on the same devices.

    Raises:
        CapacityError: the drafter's weights do not fit.
    """
    speculation = engine.speculation
    if speculation is None or isinstance(target, StagedStepModel):
        return target
    model = None
    if drafter is not None:
        costs = clocked_costs(section, device, None)
        placement = Placement.tensor_parallel(drafter, device, costs, collectives)
        model = powered_step_model(section, device, placement, engine.cudagraph_capture_sizes)
    return SpeculativeStepModel(target, speculation.num_speculative_tokens, model)
