"""LoRA adapters beside the projections of every layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.adapter import Adapter
from servesim.graph.ops.gemm import Gemm


def with_adapters(graph: OpGraph, max_loras: int, max_lora_rank: int) -> OpGraph:
    """``graph``, one rank's, with room and work for ``max_loras`` adapters.

    Every projection in a layer gets a product down to ``max_lora_rank`` columns for each linear
    layer merged into it, and one up again, as vLLM runs them (``lora_shrink``, ``lora_expand``) on
    all tokens of a step. A column-parallel projection divides the second, a row-parallel one the
    first; the other is whole on each rank. Routers and routed experts have none.
    """
    blocks = tuple(
        replace(block, ops=tuple(_ops(block, graph, max_loras, max_lora_rank)))
        if block.layers
        else block
        for block in graph.blocks
    )
    adapted = replace(graph, blocks=blocks)
    more = adapted.operator_weight_bytes - graph.operator_weight_bytes
    adapted = replace(adapted, weight_bytes=graph.weight_bytes + more)
    adapted.lint()
    return adapted


def adapter_bytes(graph: OpGraph) -> float:
    """Bytes of one adapter on one rank."""
    return sum(
        op.spec.weight_bytes / op.spec.slots * count
        for op, count in graph.weighted_ops()
        if isinstance(op.spec, Adapter)
    )


def _ops(block: Block, graph: OpGraph, slots: int, rank: int) -> Iterator[Op]:
    routes = {
        name
        for op in block.ops
        if op.kind == "pointwise" and getattr(op.spec, "kernel", "") == "router"
        for name in op.inputs
    }
    for op in block.ops:
        yield op
        spec = op.spec
        if not isinstance(spec, Gemm) or op.name in routes:
            continue
        width = rank * max(1, len(spec.parts))
        down = Adapter(width, spec.k, slots, graph.dtype)
        up = Adapter(spec.n, rank, slots, graph.dtype)
        shrink = f"{op.name}_lora_shrink"
        yield Op(shrink, down, op.inputs, op.scope, "lora_shrink")
        yield Op(f"{op.name}_lora_expand", up, (shrink,), op.scope, "lora_expand")
