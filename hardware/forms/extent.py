"""The sizes that tell whether work lies inside what a form was fitted on."""

from __future__ import annotations

from collections.abc import Mapping

from servesim.graph.work import (
    AttentionWork,
    GemmWork,
    MemoryWork,
    MoeWork,
    RecurrentWork,
    Work,
)


def extent(work: Work) -> Mapping[str, float]:
    """Sizes of ``work`` by name; prefills and decodes of attention apart."""
    if isinstance(work, GemmWork):
        return {"m": work.m, "k": work.k, "weights": work.n * work.k}
    if isinstance(work, AttentionWork):
        return prefill_extent(work) if work.prefills else decode_extent(work)
    if isinstance(work, MoeWork):
        return {
            "tokens": work.tokens,
            "experts": work.experts,
            "weights": work.hidden * work.intermediate,
        }
    if isinstance(work, RecurrentWork):
        tokens = work.prefill_tokens + work.decodes
        return {"tokens": tokens, "sequences": work.prefills + work.decodes, "heads": work.heads}
    if isinstance(work, MemoryWork):
        return {"rows": work.rows, "bytes": work.bytes_read + work.bytes_written}
    return {}


def decode_extent(work: AttentionWork) -> Mapping[str, float]:
    """Sizes of the decodes of ``work``."""
    return {
        "decodes": work.decodes,
        "keys": work.decode_keys / work.decodes if work.decodes else 0.0,
        "heads": work.heads,
    }


def prefill_extent(work: AttentionWork) -> Mapping[str, float]:
    """Sizes of the prefills of ``work``."""
    return {
        "new": max((new for new, _ in work.prefills), default=0),
        "keys": max((new + context for new, context in work.prefills), default=0),
        "heads": work.heads,
    }
