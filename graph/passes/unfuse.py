"""Linear layers one by one, and attention over gathered keys, as a model's own modules run them.

All other fusion of the graph stays: sums of residuals in norms, products in gated activations,
experts as one kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from servesim.errors import UnsupportedError
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.gathered import GatheredAttention, GatheredKeys
from servesim.graph.ops.gemm import Gemm, Part


def unfuse(graph: OpGraph) -> OpGraph:
    """Take merged linear layers apart, and let attention gather what it reads.

    Raises:
        UnsupportedError: the model keeps something else than every token's keys and values, or a
            merged layer is not the sum of its parts.
    """
    for op, _ in graph.weighted_ops():
        if isinstance(op.spec, Attention) and not _full(op.spec):
            raise UnsupportedError(
                f"fused = false: {op.name} of {graph.model} is not full attention"
            )
    for cache in graph.caches:
        if cache.kind != "full":
            raise UnsupportedError(
                f"fused = false: {graph.model} has a cache of kind {cache.kind!r}, not 'full'"
            )
    blocks = tuple(replace(block, ops=tuple(_ops(block))) for block in graph.blocks)
    found = replace(graph, blocks=blocks)
    found.lint()
    return found


def _full(spec: Attention) -> bool:
    """Whether every token attends to all before it, in all phases alike."""
    narrowed = spec.latent or spec.window or spec.chunk or spec.selected
    return not narrowed and spec.phase == "all"


def _ops(block: Block) -> Iterator[Op]:
    parts: dict[str, tuple[str, ...]] = {}  # by the name of the operator they were
    taken = {op.name for op in block.ops}
    for whole in block.ops:
        reads = tuple(new for old in whole.inputs for new in parts.get(old, (old,)))
        op = replace(whole, inputs=reads)
        if isinstance(op.spec, Attention):
            yield from _gathered(op, op.spec)
            continue
        layers = _linears(op.name, op.spec) if isinstance(op.spec, Gemm) else {}
        if len(layers) < 2:
            yield op
            continue
        taken.discard(op.name)
        names = []
        for source, spec in layers.items():
            label = source.rpartition(".")[2]
            name = _unused(label, taken)
            taken.add(name)
            names.append(name)
            yield replace(op, name=name, spec=spec, label="" if name == label else label)
        parts[op.name] = tuple(names)


def _unused(name: str, taken: set[str]) -> str:
    """``name``, numbered as equal ones of a block are where it is ``taken``."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    return found


def _linears(name: str, spec: Gemm) -> dict[str, Gemm]:
    """The linear layers of a merged one by path; those whose pieces are several count once."""
    pieces: dict[str, tuple[Part, ...]] = {}
    for part in spec.parts:
        pieces[part.source] = (*pieces.get(part.source, ()), part)
    found = {}
    for source, own in pieces.items():
        n = sum(part.size for part in own)
        scales = spec.scale_bytes * n / spec.n
        found[source] = replace(spec, n=n, parts=own, scale_bytes=scales)
    if len(found) > 1 and (columns := sum(one.n for one in found.values())) != spec.n:
        raise UnsupportedError(
            f"fused = false: the parts of {name} have {columns} columns, not {spec.n}"
        )
    return found


def _gathered(op: Op, spec: Attention) -> Iterator[Op]:
    """Keys and values out of the cache, then repeated for each head, then attended to."""
    width = spec.head_dim + spec.value_dim
    each, repeated = spec.kv_heads * width, spec.heads * width
    gather, repeat = f"{op.name}_gather", f"{op.name}_repeat"
    copy = GatheredKeys("copy", each, each, dtype=spec.kv_dtype)
    yield Op(gather, copy, op.inputs, op.scope)
    reads = (*op.inputs, gather)
    if repeated > each:
        copy = GatheredKeys("copy", each, repeated, dtype=spec.kv_dtype)
        yield Op(repeat, copy, (gather,), op.scope)
        reads = (*op.inputs, repeat)
    own = {one.name: getattr(spec, one.name) for one in fields(Attention)}
    own |= {"kv_heads": spec.heads, "causal": False}
    yield replace(op, spec=GatheredAttention(**own), inputs=reads)
