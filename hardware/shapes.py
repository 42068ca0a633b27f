"""Kernels told apart by shape, and the quantities that their time on one core is a sum of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import (
    AttentionWork,
    CollectiveWork,
    GemmWork,
    MemoryWork,
    MoeWork,
    RecurrentWork,
    Work,
)

Terms = Mapping[str, float]

#: Terms of keys that decodes read again: less than others' where a cache delivers them.
REPEATED = frozenset({"repeated_keys", "repeated_bytes"})


def shape_of(work: Work) -> str:
    """What must be equal for two kernels to differ by their batch alone, to read and write."""
    if isinstance(work, GemmWork):
        batch = f" x{work.batch}" if work.batch > 1 else ""
        scales = f" scales {work.scale_bytes:g}" if work.scale_bytes else ""
        return f"{_formats(work.dtype, work.weight)} {work.n}x{work.k}{batch}{scales}"
    if isinstance(work, MoeWork):
        sizes = f"{work.experts}/{work.top_k} {work.hidden}x{work.intermediate}"
        share = work.pairs / (work.tokens * work.top_k) if work.tokens else 1.0
        notes = "" if work.gated else " ungated"
        notes += f" share {share:.4g}" if abs(share - 1.0) > 1e-6 else ""
        notes += f" {work.distribution}" if work.distribution != "uniform" else ""
        return f"{_formats(work.dtype, work.weight)} {sizes}{notes}"
    if isinstance(work, MemoryWork):
        rows = max(1, work.rows)
        one = f"{work.bytes_written / rows:.5g} B {work.flops / rows:.5g} FLOP"
        return f"{work.kernel} {work.per_token} x {one}"
    if isinstance(work, AttentionWork):
        heads = f"{work.heads}/{work.kv_heads} {work.head_dim}/{work.value_dim}"
        notes = f" window {work.window}" if work.window is not None else ""
        notes += " latent" if work.latent else ""
        notes += "" if work.causal else " bidirectional"
        return f"{_formats(work.dtype, work.kv_dtype)} {heads}{notes}"
    if isinstance(work, RecurrentWork):
        return f"{work.dtype} {work.recurrence} {work.heads} {work.key_dim}x{work.value_dim}"
    return f"{work.operation} of {work.ranks}" if isinstance(work, CollectiveWork) else ""


def kind_of(work: Work) -> str:
    """What kernels of all shapes have in common: number format, kernel or recurrence."""
    if isinstance(work, GemmWork | MoeWork):
        return f"any {_formats(work.dtype, work.weight)}"
    if isinstance(work, MemoryWork):
        return f"any {work.kernel}"
    if isinstance(work, AttentionWork):
        return f"any {_formats(work.dtype, work.kv_dtype)}{' latent' if work.latent else ''}"
    return f"any {work.recurrence}" if isinstance(work, RecurrentWork) else ""


def count_of(work: Work) -> float:
    """The size of the batch as kernels of one shape see it: rows, tokens, sequences or bytes."""
    if isinstance(work, GemmWork):
        return work.m
    if isinstance(work, MoeWork):
        return work.tokens
    if isinstance(work, MemoryWork):
        return work.rows / work.per_token
    if isinstance(work, AttentionWork):
        return work.query_tokens
    if isinstance(work, CollectiveWork):
        return work.payload_bytes
    return work.prefill_tokens + work.decodes if isinstance(work, RecurrentWork) else 0.0


def batch_terms(work: Work) -> Terms:
    """Of attention and recurrent mixers of one shape: sequences, tokens and keys by name."""
    if isinstance(work, AttentionWork):
        return _attention_batch(work)
    return _recurrent_batch(work) if isinstance(work, RecurrentWork) else {}


def covers(coefficients: Terms, work: Work) -> bool:
    """Whether a sum was fitted to prefills, where there are some, and to decodes likewise.

    Kernels of one phase alone may have been measured; what the other takes is then not known.
    """
    phases = {
        ("prefill", "scan"): getattr(work, "prefills", ()),
        ("decode", "update"): getattr(work, "decodes", 0),
    }
    return all(
        any(name.startswith(names) for name in coefficients)
        for names, present in phases.items()
        if present
    )


def size_terms(work: Work) -> Terms:
    """Of kernels of any shape: calls, rows, bytes and FLOP by name."""
    sizes: dict[type, Callable[[Any], Terms]] = {
        GemmWork: _gemm_sizes,
        MoeWork: _moe_sizes,
        MemoryWork: _memory_sizes,
        AttentionWork: _attention_sizes,
        RecurrentWork: _recurrent_sizes,
    }
    found = sizes.get(type(work))
    return found(work) if found else {}


def _attention_batch(work: AttentionWork) -> Terms:
    new = sum(tokens for tokens, _ in work.prefills)
    return {
        "call": 1.0,
        "prefills": float(len(work.prefills)),
        "prefill_tokens": float(new),
        "prefill_keys": float(_prefill_keys(work)),
        "prefill_pairs": float(work.prefill_pairs),  # of kernels that skip what is masked
        "prefill_area": float(sum(t * (t + c) for t, c in work.prefills)),  # that mask it
        "decodes": float(work.decodes),
        "decode_keys": float(work.decode_keys - work.repeated_keys),
        "repeated_keys": float(work.repeated_keys),
    }


def _recurrent_batch(work: RecurrentWork) -> Terms:
    return {
        "scan": float(work.prefills > 0),
        "prefills": float(work.prefills),
        "prefill_tokens": float(work.prefill_tokens),
        "update": float(work.decodes > 0),
        "decodes": float(work.decodes),
    }


def _gemm_sizes(work: GemmWork) -> Terms:
    return {
        "call": 1.0,
        "weight_bytes": work.weight_bytes,
        "activation_bytes": work.bytes_read - work.weight_bytes + work.bytes_written,
        "flops": work.flops,
    }


def _moe_sizes(work: MoeWork) -> Terms:
    return {
        "call": 1.0,
        "tokens": float(work.tokens),
        "pairs": float(work.pairs),
        "weight_bytes": work.touched * work.expert_bytes,
        "flops": work.flops,
    }


def _memory_sizes(work: MemoryWork) -> Terms:
    moved = work.bytes_read + work.bytes_written
    return {"call": 1.0, "rows": float(work.rows), "bytes": moved}


def _attention_sizes(work: AttentionWork) -> Terms:
    new = sum(tokens for tokens, _ in work.prefills)
    width = work.head_dim + work.value_dim
    pair = 2.0 * work.heads * width
    return {
        "call": 1.0,
        "prefills": float(len(work.prefills)),
        "prefill_bytes": new * work.heads * width * bytes_per_element(work.dtype)
        + _prefill_keys(work) * work.kv_bytes_per_token,
        "prefill_flops": work.prefill_pairs * pair,
        "decodes": float(work.decodes),
        "decode_bytes": (work.decode_keys - work.repeated_keys) * work.kv_bytes_per_token,
        "decode_flops": work.decode_keys * pair,
        "repeated_bytes": work.repeated_keys * work.kv_bytes_per_token,
    }


def _recurrent_sizes(work: RecurrentWork) -> Terms:
    return {
        "scan": float(work.prefills > 0),
        "scan_bytes": work.prefill_tokens * work.token_bytes + 2 * work.prefills * work.state_bytes,
        "scan_flops": work.prefill_tokens * work.flops_per_token,
        "update": float(work.decodes > 0),
        "update_bytes": work.decodes * (work.token_bytes + 2.0 * work.state_bytes),
        "update_flops": work.decodes * work.flops_per_token,
    }


def _prefill_keys(work: AttentionWork) -> int:
    """Keys of all prefills, those before a window left out."""
    clip = work.window
    return sum(t + (c if clip is None else min(c, clip)) for t, c in work.prefills)


def _formats(arithmetic: str, stored: str) -> str:
    return arithmetic if arithmetic == stored else f"{arithmetic}/{stored}"
