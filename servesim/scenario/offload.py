"""Memories below the device's, for the KV of a model."""

from __future__ import annotations

from servesim.errors import InputError, UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.runtime.tiers.options import Offload, tiers_of
from servesim.scenario.sections import OffloadSection


def offload_of(section: OffloadSection, graph: OpGraph, stages: int) -> Offload | None:
    """What the section describes, for the KV of ``graph``; None without tiers.

    Raises:
        UnsupportedError: a pipeline.
        InputError: a tier's value is missing or cannot be used.
    """
    if not section.tiers:
        return None
    if stages > 1:
        raise UnsupportedError("KV tiers cannot be simulated with pipeline_parallel_size above 1")
    try:
        tiers = tiers_of(section.tiers)
        offload = Offload(
            tiers=tiers,
            chunk_tokens=section.chunk_tokens,
            layerwise=section.layerwise,
            recall=section.recall,
            swap=section.swap,
        )
    except InputError as error:
        raise InputError(f"[offload]: {error}") from error
    rank_bytes = sum(len(cache.layers) * cache.bytes_per_token for cache in graph.caches)
    return offload.of_model(rank_bytes * graph.tensor_parallel_size, graph.num_layers)
