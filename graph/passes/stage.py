"""Pipeline stages: consecutive layers each, the embedding on the first, the LM head on the last."""

from __future__ import annotations

from dataclasses import replace

from servesim.errors import UnsupportedError
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.lm_head import LmHead


def split_stages(graph: OpGraph, stages: int) -> tuple[OpGraph, ...]:
    """``graph`` cut at layer boundaries as vLLM cuts it.

    Layers that do not divide evenly go one each to the stages before the last, backwards from the
    second-last, which spares the last stage (it has the LM head).

    Raises:
        UnsupportedError: there are fewer layers than stages.
    """
    if stages == 1:
        return (graph,)
    if graph.num_layers < stages:
        raise UnsupportedError(
            f"{graph.model}: {graph.num_layers} layers cannot make {stages} pipeline stages"
        )
    sizes = [graph.num_layers // stages] * stages
    for index in range(graph.num_layers % stages):
        sizes[-2 - index] += 1
    starts = [sum(sizes[:index]) for index in range(stages)]
    layered = [index for index, block in enumerate(graph.blocks) if block.layers]
    return tuple(
        _stage(graph, range(start, start + size), (layered[0], layered[-1]))
        for start, size in zip(starts, sizes, strict=True)
    )


def _stage(graph: OpGraph, layers: range, layered: tuple[int, int]) -> OpGraph:
    """The stage of ``layers``; blocks outside the layers lie before or after ``layered``."""
    first, last = layers.start == 0, layers.stop == graph.num_layers
    blocks = []
    for index, block in enumerate(graph.blocks):
        kept = tuple(layer for layer in block.layers if layer in layers)
        outside = not block.layers and (first if index < layered[0] else last)
        if kept or outside:
            ops = tuple(_own_head(op) for op in block.ops) if last and not first else block.ops
            blocks.append(Block(block.name, ops, kept))
    caches = (
        replace(group, layers=tuple(layer for layer in group.layers if layer in layers))
        for group in graph.caches
    )
    stage = replace(
        graph, blocks=tuple(blocks), caches=tuple(group for group in caches if group.layers)
    )
    # What no operator holds (a vision tower) is beside the embedding.
    beside = graph.weight_bytes - graph.operator_weight_bytes if first else 0.0
    return replace(stage, weight_bytes=stage.operator_weight_bytes + beside)


def _own_head(op: Op) -> Op:
    """The LM head with weights of its own: the embedding it was tied to is on another stage."""
    if isinstance(op.spec, LmHead) and op.spec.tied:
        return replace(op, spec=replace(op.spec, tied=False))
    return op
