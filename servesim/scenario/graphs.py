"""The graph of one rank as an engine runs it, and as its device holds it."""

from __future__ import annotations

from servesim.errors import UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.draft_head import beside
from servesim.graph.passes.quantise import widened
from servesim.hardware.device import Device
from servesim.runtime.config import EngineConfig
from servesim.scenario.adapters import adapted
from servesim.scenario.parallel import shared_context, spread
from servesim.scenario.sections import ModelSection


def served_graph(
    graph: OpGraph, section: ModelSection, engine: EngineConfig, device: Device
) -> OpGraph:
    """``graph``, one tensor-parallel rank's, with its experts, cache, formats and adapters as run.

    Raises:
        UnsupportedError: the device does not compute in the model's format.
        ServesimError: as ``spread``, ``shared_context`` and ``adapted``.
    """
    if graph.dtype not in device.peak_flops:
        known = " or ".join(d for d in ("bf16", "fp16", "fp32") if d in device.peak_flops)
        hint = f"; give [model] dtype {known}" if known else ""
        raise UnsupportedError(
            f"{device.name} cannot compute in {graph.dtype}, the format of {graph.model}{hint}"
        )
    graph = shared_context(spread(graph, section, engine), section, engine)
    graph = widened(graph, device.peak_flops)
    return adapted(graph, engine, device)


def resident_graph(graph: OpGraph, drafter: OpGraph | None) -> OpGraph:
    """What takes memory: the served graph, and the drafter's beside it."""
    return graph if drafter is None else beside(graph, drafter)
