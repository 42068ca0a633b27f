"""The drafter that a model carries: a head of one layer on its hidden states (EAGLE, MTP)."""

from __future__ import annotations

from dataclasses import replace

from servesim.errors import UnsupportedError
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.lm_head import LmHead


def draft_head(graph: OpGraph) -> OpGraph:
    """One more layer like the last of ``graph``, with embedding and LM head of the target.

    Its input is the target's hidden state and the embedding of the next token, brought to one
    width by a product of (2·hidden x hidden) (DeepSeek-V3 technical report, 2024, section 2.2;
    EAGLE, Li et al. 2024, section 3.1). Embedding and LM head are the target's own weights.

    Raises:
        UnsupportedError: a model without layers.
    """
    layered = [block for block in graph.blocks if block.layers]
    if not layered:
        raise UnsupportedError(f"{graph.model} has no layers to draft with")
    last = max(layered, key=lambda block: max(block.layers))
    number = max(last.layers)
    width = graph.hidden_size
    fusion = Gemm(width, 2 * width, dtype=graph.dtype, weight=graph.dtype)
    join = Block("fusion", (Op("draft_fusion", fusion, (STREAM,)),))
    at = graph.blocks.index(last)
    before = tuple(block for block in graph.blocks[:at] if not block.layers)
    after = tuple(block for block in graph.blocks[at:] if not block.layers)
    blocks = (*map(_shared, before), join, replace(last, layers=(0,)), *map(_shared, after))
    caches = tuple(replace(group, layers=(0,)) for group in graph.caches if number in group.layers)
    head = replace(graph, blocks=blocks, caches=caches)
    return replace(head, weight_bytes=head.operator_weight_bytes)


def _shared(block: Block) -> Block:
    """A block outside the layers whose large weights are the target's."""
    return replace(block, ops=tuple(_tied(op) for op in block.ops))


def _tied(op: Op) -> Op:
    tied = op.kind == "embedding" or isinstance(op.spec, LmHead)
    return replace(op, spec=replace(op.spec, tied=True)) if tied else op  # type: ignore[type-var]


def beside(graph: OpGraph, drafter: OpGraph) -> OpGraph:
    """``graph`` with what ``drafter`` keeps in memory: weights, and its layers' cache."""
    first = graph.num_layers
    caches = tuple(
        replace(group, layers=tuple(first + layer for layer in group.layers))
        for group in drafter.caches
    )
    weights = graph.weight_bytes + drafter.weight_bytes
    return replace(graph, caches=(*graph.caches, *caches), weight_bytes=weights)
