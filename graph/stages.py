"""Pipeline stages: the layers dealt to consecutive groups of devices."""

from __future__ import annotations

from dataclasses import replace

from servesim.errors import InputError
from servesim.graph.op import SEQUENCES
from servesim.graph.opgraph import Block, OpGraph


def layer_ranges(layers: int, stages: int) -> tuple[range, ...]:
    """The layers of every stage, as vLLM's ``get_pp_indices`` deals them.

    Each stage gets ``layers // stages``; what remains goes, one a stage, to the stages before the
    last, last of them first (the last stage has the final norm and LM head to do, the first the
    embedding).

    Raises:
        InputError: more stages than layers.
    """
    if not 1 <= stages <= layers:
        raise InputError(
            f"pipeline_parallel_size must be between 1 and the {layers} layers, not {stages}"
        )
    sizes = [layers // stages] * stages
    for extra in range(layers % stages):
        sizes[stages - 2 - extra] += 1
    starts = [sum(sizes[:i]) for i in range(stages)]
    return tuple(range(a, a + n) for a, n in zip(starts, sizes, strict=True))


def split(graph: OpGraph, pipeline_parallel_size: int) -> tuple[OpGraph, ...]:
    """One graph a stage; layer numbers stay those of the whole model.

    What precedes the layers is the first stage's, what follows them the last's. A stage's
    ``weight_bytes`` are those of its operators.

    Raises:
        InputError: more stages than layers.
    """
    if pipeline_parallel_size == 1:
        return (graph,)
    ranges = layer_ranges(graph.num_layers, pipeline_parallel_size)
    last = len(ranges) - 1
    return tuple(_stage(graph, r, first=i == 0, last=i == last) for i, r in enumerate(ranges))


def _stage(graph: OpGraph, layers: range, *, first: bool, last: bool) -> OpGraph:
    blocks: list[Block] = []
    for block in graph.blocks:
        if not block.layers:
            is_tail = any(op.spec.depends == SEQUENCES for op in block.ops)
            if last if is_tail else first:
                blocks.append(block)
            continue
        mine = tuple(i for i in block.layers if i in layers)
        if mine:
            blocks.append(replace(block, layers=mine))
    caches = tuple(
        replace(c, layers=mine)
        for c in graph.caches
        if (mine := tuple(i for i in c.layers if i in layers))
    )
    weights = sum(op.spec.weight_bytes * b.count for b in blocks for op in b.ops)
    return replace(graph, blocks=tuple(blocks), caches=caches, weight_bytes=weights)
