"""Context parallelism: the KV cache shared among ranks by tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from servesim.errors import UnsupportedError
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.context import ContextExchange, SharedAttention
from servesim.graph.ops.recurrent import Recurrent


def kv_heads(graph: OpGraph) -> int:
    """KV heads that decodes read, the most of any layer; one for a latent vector."""
    specs = (op.spec for op, _ in graph.weighted_ops())
    found = (spec for spec in specs if isinstance(spec, Attention) and spec.phase != "prefill")
    return max((1 if spec.latent else spec.kv_heads for spec in found), default=1)


def share_context(
    graph: OpGraph,
    decode_context_parallel_size: int,
    prefill_context_parallel_size: int = 1,
    *,
    total_kv_heads: int = 1,
) -> OpGraph:
    """``graph``, one tensor-parallel rank's, with its KV cache shared by tokens.

    Decodes: the ranks of a tensor-parallel group that would hold the same KV heads hold parts of
    the tokens instead; each attends with the group's queries to its part, and the results are
    joined by their softmax sums. Prefill ranks hold parts, too, and each computes its share of a
    prompt's tokens over keys gathered from all (vLLM, ``decode_context_parallel_size`` and
    ``prefill_context_parallel_size``).

    Args:
        total_kv_heads: ``kv_heads`` of the whole model, before it was dealt to ranks.

    Raises:
        UnsupportedError: not so many ranks hold the same KV heads, or a model with states, windows,
            or attention in chunks.
    """
    decode, prefill = decode_context_parallel_size, prefill_context_parallel_size
    if decode * prefill == 1:
        return graph
    _require_shareable(graph, decode, total_kv_heads)
    blocks = tuple(
        replace(block, ops=tuple(_ops(block, graph, decode, prefill))) for block in graph.blocks
    )
    caches = tuple(
        replace(group, bytes_per_token=group.bytes_per_token / (decode * prefill))
        for group in graph.caches
    )
    shared = replace(graph, blocks=blocks, caches=caches)
    shared.lint()
    return shared


def _require_shareable(graph: OpGraph, decode: int, total_kv_heads: int) -> None:
    ranks = graph.tensor_parallel_size
    if ranks % decode:
        raise UnsupportedError(
            f"decode_context_parallel_size {decode} does not divide tensor_parallel_size {ranks}"
        )
    if decode > max(1, ranks // total_kv_heads):
        raise UnsupportedError(
            f"decode_context_parallel_size {decode}: {ranks} ranks hold {total_kv_heads} KV heads"
            f" {max(1, ranks // total_kv_heads)} times"
        )
    for op, _ in graph.weighted_ops():
        spec = op.spec
        if isinstance(spec, Recurrent):
            raise UnsupportedError(f"context parallelism: {graph.model} keeps recurrent states")
        if not isinstance(spec, Attention):
            continue
        if spec.window is not None or spec.chunk is not None or spec.selected is not None:
            raise UnsupportedError(f"context parallelism: {graph.model} limits its attention")


def _ops(block: Block, graph: OpGraph, decode: int, prefill: int) -> Iterator[Op]:
    """The block's operators, attention split by phase with what must be exchanged around it."""
    renamed: dict[str, str] = {}
    for op in block.ops:
        reads = tuple(renamed.get(name, name) for name in op.inputs)
        op = replace(op, inputs=reads)  # noqa: PLW2901
        if not isinstance(op.spec, Attention):
            yield op
            continue
        last = reads
        if op.spec.phase != "decode":
            if prefill > 1:
                gather = _kv_gather(block, graph, prefill)
                yield Op(f"{op.name}_kv_gather", gather, last, op.scope, "context_kv_gather")
                last = (f"{op.name}_kv_gather",)
            both = op.spec.phase == "all"
            name = f"{op.name}_prefill" if both else op.name
            yield replace(op, name=name, spec=replace(op.spec, phase="prefill"), inputs=last)
            last = (name,)
        if op.spec.phase != "prefill":
            yield from _decode_ops(op, graph, decode, prefill, last)
            renamed[op.name] = f"{op.name}_join"


def _decode_ops(
    op: Op, graph: OpGraph, decode: int, prefill: int, reads: tuple[str, ...]
) -> Iterator[Op]:
    spec = op.spec
    assert isinstance(spec, Attention)
    heads, ranks = spec.heads * decode, decode * prefill
    known = {one.name: getattr(spec, one.name) for one in fields(Attention)}
    own = SharedAttention(**{**known, "heads": heads, "phase": "decode"}, context_ranks=ranks)
    if decode > 1:
        query = ContextExchange("all_gather", heads * spec.head_dim, decode, dtype=graph.dtype)
        yield Op(f"{op.name}_query_gather", query, reads, op.scope, "context_query_gather")
        reads = (f"{op.name}_query_gather",)
    yield replace(op, spec=own, inputs=reads)
    # Results with their softmax sums; each rank keeps the heads it had.
    join = ContextExchange("reduce_scatter", heads * (spec.value_dim + 1), ranks, dtype=graph.dtype)
    yield Op(f"{op.name}_join", join, (op.name,), op.scope, "context_join")


def _kv_gather(block: Block, graph: OpGraph, prefill: int) -> ContextExchange:
    """What the cache keeps of a prompt's new tokens, from all ranks that share them."""
    kept = next(group for group in graph.caches if block.layers[0] in group.layers)
    width = round(kept.bytes_per_token / bytes_per_element(graph.dtype))
    return ContextExchange(
        "all_gather", width, prefill, phase="prefill", share=prefill, dtype=graph.dtype
    )
