"""Tracing a model into an operator graph; needs torch and transformers."""

from __future__ import annotations

from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.experts import Experts
from servesim.graph.passes.caches import cache_groups
from servesim.graph.passes.canonical import canonicalise
from servesim.graph.trace.capture import capture
from servesim.models.build import build_model, quiet
from servesim.models.config import ModelConfig


def trace_graph(config: ModelConfig, dtype: str) -> OpGraph:
    """The unsharded operator graph of ``config``.

    Raises:
        InputError, UnsupportedError: the config does not build or cannot be traced.
    """
    model = build_model(config.values, dtype)
    with quiet():
        prefill, _ = capture(model)
    notes = tuple(prefill.notes)
    blocks = canonicalise(prefill, dtype)
    parameters = sum(p.numel() for p in model.parameters())
    text = model.config.get_text_config()
    if not any(block.layers for block in blocks):
        raise UnsupportedError(f"{config.name}: no decoder layers were found in the trace")
    graph = OpGraph(
        model=config.name,
        blocks=blocks,
        caches=cache_groups(prefill, dtype),
        parameters=parameters,
        active_parameters=active_parameters(blocks, parameters),
        weight_bytes=float(sum(p.numel() * p.element_size() for p in model.parameters())),
        hidden_size=int(text.hidden_size),
        vocab_size=int(text.vocab_size),
        max_model_len=_context_length(text),
        dtype=dtype,
        notes=notes,
    )
    graph.lint()
    return graph


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
                idle += op.spec.weight_elements
    return parameters - idle


def _context_length(config: Any) -> int:
    """Longest context the config names; models without a limit get 2^20 tokens."""
    for key in ("max_position_embeddings", "max_sequence_length", "n_positions", "seq_length"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return 2**20
