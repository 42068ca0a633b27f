"""The graph of one rank as an engine runs it, and as its device holds it."""

from __future__ import annotations

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
    """``graph``, one tensor-parallel rank's, with its experts, cache, number formats and adapters as they
    are run.

    Raises:
        ServesimError: as ``spread``, ``shared_context`` and ``adapted``.
    """
    graph = shared_context(spread(graph, section, engine), section, engine)
    graph = widened(graph, device.peak_flops)
    return adapted(graph, engine, device)


def resident_graph(graph: OpGraph, drafter: OpGraph | None) -> OpGraph:
    """What takes memory: the served graph, and the drafter's beside it."""
    return graph if drafter is None else beside(graph, drafter)
