"""The rewrite pipeline: recorded nodes in, blocks of serving operators out."""

from __future__ import annotations

from collections.abc import Callable

from servesim.graph.ir import TraceGraph
from servesim.graph.opgraph import Block
from servesim.graph.passes.caches import mark_caches
from servesim.graph.passes.dead import drop_dead
from servesim.graph.passes.dense_experts import undo_dense_experts
from servesim.graph.passes.emit import emit_blocks
from servesim.graph.passes.fuse import fuse_glue
from servesim.graph.passes.indexers import collapse_indexers
from servesim.graph.passes.latent import mark_latent
from servesim.graph.passes.linear_attention import collapse_linear_attention
from servesim.graph.passes.merge_gemms import merge_gemms
from servesim.graph.passes.merge_norms import merge_norms
from servesim.graph.passes.merge_windows import merge_windows
from servesim.graph.passes.norms import collapse_norms
from servesim.graph.passes.raw_attention import collapse_raw_attention
from servesim.graph.passes.simplify import simplify
from servesim.graph.passes.small_products import fold_small_products

PASSES: tuple[Callable[[TraceGraph], None], ...] = (
    simplify,
    undo_dense_experts,
    collapse_raw_attention,
    collapse_indexers,
    collapse_norms,
    collapse_linear_attention,
    drop_dead,
    fold_small_products,
    merge_gemms,
    merge_norms,
    merge_windows,
    mark_caches,
    mark_latent,
    fuse_glue,
)


def canonicalise(graph: TraceGraph, dtype: str) -> tuple[Block, ...]:
    """Rewrite ``graph`` in place, linting after every pass, and emit its operators.

    Args:
        graph: as recorded.
        dtype: number format of weights and activations.
    """
    for rewrite in PASSES:
        rewrite(graph)
        graph.lint()
    return emit_blocks(graph, dtype)
