"""The engine of an instance, of the kind that its parallelism needs."""

from __future__ import annotations

from servesim.runtime.engine import Engine
from servesim.runtime.instance import DEFAULT_OPTIONS, EngineOptions, Instance
from servesim.runtime.parallel.pipeline import PipelineEngine
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.parallel.waves import Rank
from servesim.runtime.records import RequestRecords


def build_engine(
    instance: Instance, requests: RequestRecords, options: EngineOptions = DEFAULT_OPTIONS
) -> Engine:
    """The engine of ``instance``: a pipeline if its step model has stages, a rank if in a wave.

    Ranks of a wave must be joined by ``join_waves``.
    """
    if instance.wave:
        return Rank(instance, requests, options)
    staged = isinstance(instance.step_model, StagedStepModel)
    return (PipelineEngine if staged else Engine)(instance, requests, options)
