"""Tracing a model into an operator graph; needs torch and transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from servesim.errors import ServesimError, UnsupportedError
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.ir import PARAMETER, TraceGraph
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, CacheGroup, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.experts import Experts
from servesim.graph.passes.caches import (
    Kept,
    cache_groups,
    caches_of,
    group_layers,
    unwritten_states,
)
from servesim.graph.passes.canonical import canonicalise
from servesim.graph.passes.decode_reads import caches_read
from servesim.graph.trace.capture import TOKENS, capture, record_prefill
from servesim.graph.trace.fx_view import to_fx
from servesim.models.build import build_model, first_line, quiet
from servesim.models.config import ModelConfig

#: Config keys that name the longest context.
_CONTEXT_KEYS = (
    "max_position_embeddings", "max_sequence_length", "max_seq_len", "max_seq_length",
    "n_positions", "seq_length",
)  # fmt: skip
#: Rotary scalings that stretch the context beyond what those keys name.
_STRETCHING = ("linear", "dynamic", "yarn")


@dataclass(frozen=True)
class Traced:
    """A traced model.

    Attributes:
        graph: of the prefill; what an engine runs.
        decode: blocks of the decode step, empty for models that hand back no cache.
        model: the module on meta tensors.
    """

    graph: OpGraph
    decode: tuple[Block, ...]
    model: Any


def trace_graph(config: ModelConfig, dtype: str) -> OpGraph:
    """The unsharded operator graph of ``config``.

    Raises:
        InputError, UnsupportedError: the config does not build or cannot be traced.
    """
    return trace_module(build_model(config.values, dtype), config.name, dtype).graph


def recorded_fx(config: ModelConfig, dtype: str) -> str:
    """The prefill of ``config`` as recorded, before any rewriting, printed by ``torch.fx``.

    Raises:
        InputError, UnsupportedError: the config does not build or cannot be traced.
    """
    model = build_model(config.values, dtype)
    with quiet():
        try:
            trace, _ = record_prefill(model)
        except Exception as error:
            raise UnsupportedError(
                f"{config.name} cannot be traced: {first_line(error)}"
            ) from error
    return str(to_fx(trace))


def trace_module(model: Any, name: str, dtype: str) -> Traced:
    """Trace a module that is ready (see `build_model`).

    Raises:
        UnsupportedError: it does not run on meta tensors or has no layers.
    """
    with quiet():
        try:
            prefill, decode = _capture(model)
        except ServesimError:
            raise
        except Exception as error:
            raise UnsupportedError(f"{name} cannot be traced: {first_line(error)}") from error
    parameters = language_parameters(model, prefill)
    blocks = canonicalise(prefill, dtype)
    if not any(block.layers for block in blocks):
        raise UnsupportedError(f"{name}: no decoder layers were found in the trace")
    caches = cache_groups(prefill, dtype)
    if not caches and decode is not None:
        caches = caches_read(decode, TOKENS, dtype)
    caches = caches or caches_of(blocks)
    caches += unwritten_states(blocks, caches)
    blocks, caches = _renumbered(blocks, caches)
    longest = _context_length(model.config.get_text_config(decoder=True))
    blocks, caches = _without_idle_windows(blocks, caches, longest)
    graph = _graph(model, name, dtype, blocks, caches, parameters, tuple(prefill.notes))
    steps = () if decode is None else canonicalise(decode, dtype)
    return Traced(graph, steps, model)


def _capture(model: Any) -> tuple[TraceGraph, TraceGraph | None]:
    """Record; in fp32 where the code mixes formats (shapes are all that matters)."""
    try:
        return capture(model)
    except RuntimeError as error:
        if "scalar type" not in str(error) and "dtype" not in str(error):
            raise
        return capture(model.float())


def _graph(
    model: Any,
    name: str,
    dtype: str,
    blocks: tuple[Block, ...],
    caches: tuple[CacheGroup, ...],
    parameters: int,
    notes: tuple[str, ...],
) -> OpGraph:
    text = model.config.get_text_config(decoder=True)
    table = next(op.spec for b in blocks for op in b.ops if isinstance(op.spec, Embedding))
    graph = OpGraph(
        model=name,
        blocks=blocks,
        caches=caches,
        parameters=parameters,
        active_parameters=active_parameters(blocks, parameters),
        weight_bytes=parameters * bytes_per_element(dtype),
        hidden_size=int(getattr(text, "hidden_size", table.width)),
        vocab_size=table.rows,
        max_model_len=_context_length(text),
        dtype=dtype,
        notes=notes,
    )
    graph.lint()
    return graph


def _renumbered(
    blocks: tuple[Block, ...], caches: tuple[CacheGroup, ...]
) -> tuple[tuple[Block, ...], tuple[CacheGroup, ...]]:
    """Layers numbered without gaps: some models skip layers that need an image."""
    used = sorted(layer for block in blocks for layer in block.layers)
    number = {layer: i for i, layer in enumerate(used)}

    def renumber(layers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(number[layer] for layer in layers if layer in number)

    kept = (replace(c, layers=renumber(c.layers)) for c in caches)
    return (
        tuple(replace(b, layers=renumber(b.layers)) for b in blocks),
        tuple(c for c in kept if c.layers),
    )


def _without_idle_windows(
    blocks: tuple[Block, ...], caches: tuple[CacheGroup, ...], longest: int
) -> tuple[tuple[Block, ...], tuple[CacheGroup, ...]]:
    """Windows as long as the longest context limit nothing (Phi-3-mini-128k)."""

    def opened(op: Op) -> Op:
        spec = op.spec
        if isinstance(spec, Attention) and spec.window is not None and spec.window >= longest:
            return replace(op, spec=replace(spec, window=None))
        return op

    kept: dict[Kept, list[int]] = {}
    for c in caches:
        idle = c.kind == "window" and (c.window or 0) >= longest
        kind, window = ("full", None) if idle else (c.kind, c.window)
        what = Kept(kind, c.bytes_per_token, window, c.state_bytes)
        kept.setdefault(what, []).extend(c.layers)
    open_blocks = tuple(replace(b, ops=tuple(opened(op) for op in b.ops)) for b in blocks)
    return open_blocks, group_layers(kept)


def _times(graph: TraceGraph, layer: int | None) -> int:
    return 1 + sum(r.like == layer for r in graph.repeats)


def language_parameters(model: Any, graph: TraceGraph) -> int:
    """Parameters of the language model: of the parts of ``model`` that running it touched.

    Vision and audio towers, which text alone does not run, are left out whole, and so are stacked
    matrices of experts that do not exist.
    """
    touched = {_part(n.attrs["name"]) for n in graph if n.target == PARAMETER}
    named = model.named_parameters()
    held: int = sum(p.numel() for name, p in named if _part(name) in touched)
    unused: int = sum(n.attrs.get("unused", 0) * _times(graph, n.layer) for n in graph)
    return held - unused


def _part(name: str) -> tuple[str, ...]:
    """``model.vision_tower.encoder.weight`` -> ``("model", "vision_tower")``."""
    return tuple(name.split(".")[:2])


def active_parameters(blocks: tuple[Block, ...], parameters: int) -> int:
    """Parameters that one token is multiplied with.

    All but the experts it is not sent to and the rows of look-up tables (a table that doubles as
    LM head counts: its logits are computed).
    """
    idle = 0
    head_is_tied = any(
        op.kind == "lm_head" and getattr(op.spec, "tied", False) for b in blocks for op in b.ops
    )
    for block in blocks:
        for op in block.ops:
            if isinstance(op.spec, Experts):
                each = op.spec.weight_elements // op.spec.experts
                idle += block.count * each * (op.spec.experts - op.spec.top_k)
            elif op.kind == "embedding" and not (head_is_tied and op.name == "embedding"):
                idle += op.spec.weight_elements * block.count
    return parameters - idle


def _context_length(config: Any) -> int:
    """Longest context the config names, stretched as its rotary scaling says (as vLLM reads it);
    models without a limit get 2^20 tokens.
    """
    given = (getattr(config, key, None) for key in _CONTEXT_KEYS)
    longest = next((value for value in given if isinstance(value, int) and value > 0), 2**20)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _STRETCHING and rope.get("factor"):
        longest = int(rope.get("original_max_position_embeddings", longest) * rope["factor"])
    return longest
