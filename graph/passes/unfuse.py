"""A model's operators as its own modules run them, not as an engine with fused kernels does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import groupby

from servesim.errors import UnsupportedError
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.gathered import GatheredAttention, GatheredKeys
from servesim.graph.ops.gemm import Gemm


def unfuse(graph: OpGraph) -> OpGraph:
    """Take merged linear layers apart, and let attention gather what it reads.

    Raises:
        UnsupportedError: the model keeps something else than every token's keys and values.
    """
    for op, _ in graph.weighted_ops():
        spec = op.spec
        if isinstance(spec, Attention) and (spec.latent or spec.window or spec.phase != "all"):
            raise UnsupportedError(
                f"fused = false: {op.name} of {graph.model} is not full attention"
            )
    blocks = tuple(replace(block, ops=tuple(_ops(block))) for block in graph.blocks)
    found = replace(graph, blocks=blocks)
    found.lint()
    return found


def _ops(block: Block) -> Iterator[Op]:
    parts: dict[str, tuple[str, ...]] = {}  # by the name of the operator they were
    taken = {op.name for op in block.ops}
    for whole in block.ops:
        reads = tuple(new for old in whole.inputs for new in parts.get(old, (old,)))
        op = replace(whole, inputs=reads)
        if isinstance(op.spec, Attention):
            yield from _gathered(op, op.spec)
            continue
        layers = _linears(op.spec) if isinstance(op.spec, Gemm) else {}
        if len(layers) < 2 or taken & layers.keys():
            yield op
            continue
        parts[op.name] = tuple(layers)
        for name, spec in layers.items():
            yield replace(op, name=name, spec=spec, label="")


def _linears(spec: Gemm) -> dict[str, Gemm]:
    """The linear layers of a merged one by name; those whose pieces are several count once."""
    found = {}
    for source, group in groupby(spec.parts, key=lambda part: part.source):
        pieces = tuple(group)
        n = sum(part.size for part in pieces)
        scales = spec.scale_bytes * n / spec.n
        name = source.rpartition(".")[2]
        found[name] = replace(spec, n=n, parts=pieces, scale_bytes=scales)
    return found


def _gathered(op: Op, spec: Attention) -> Iterator[Op]:
    """Keys and values out of the cache, then repeated for each head, then attended to."""
    each = spec.kv_heads * (spec.head_dim + spec.value_dim)
    repeated = spec.heads * (spec.head_dim + spec.value_dim)
    gather, repeat = f"{op.name}_gather", f"{op.name}_repeat"
    copy = GatheredKeys("copy", each, each, dtype=spec.kv_dtype)
    yield Op(gather, copy, op.inputs, op.scope)
    reads = (*op.inputs, gather)
    if repeated > each:
        copy = GatheredKeys("copy", each, repeated, dtype=spec.kv_dtype)
        yield Op(repeat, copy, (gather,), op.scope)
        reads = (*op.inputs, repeat)
    own = GatheredAttention(**{one.name: getattr(spec, one.name) for one in fields(Attention)})
    yield replace(op, spec=own, inputs=reads)
