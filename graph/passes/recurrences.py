"""Sizes and arithmetic of recurrent mixers, from the tensors their kernels are called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from servesim.graph.ir import Node

Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Geometry:
    """One recurrence: what `Recurrent` needs, without formats.

    Attributes:
        flops: arithmetic for one token, all heads.
        elements: activation elements read and written for one token.
        state: elements of one sequence's state.
    """

    recurrence: str
    heads: int
    key_dim: int
    value_dim: int
    flops: float
    elements: float
    state: int


def geometry(node: Node) -> Geometry | None:
    """The recurrence of a ``kernel.*`` node, or None for a kernel without a formula."""
    formula = _FORMULAS.get(node.target.removeprefix("kernel."))
    if formula is None:
        return None
    return formula(node.attrs["sizes"], node.attrs.get("chunk") or 64)


def _convolution(sizes: Sizes, _: Any) -> Geometry:
    return short_convolution(sizes["hidden_states"][1], sizes["weight"][-1])


def short_convolution(channels: int, taps: int, group: int = 1) -> Geometry:
    """A causal convolution of ``taps`` taps over groups of ``group`` channels."""
    flops = 2.0 * channels * group * taps
    state = channels * (taps - 1)
    return Geometry("short_conv", channels, taps, 1, flops, 2.0 * channels, state)


def _selective_scan(sizes: Sizes, _: Any) -> Geometry:
    """Mamba: discretise, update and read a (channels x state) matrix.

    9·channels·state FLOP a token, the count of Mamba's authors (Gu & Dao 2023, section E.2).
    """
    channels, state = sizes["A"]
    elements = 4.0 * channels + 2.0 * state
    return Geometry(
        "selective_scan", channels, state, 1, 9.0 * channels * state, elements, channels * state
    )


def _ssd(sizes: Sizes, chunk: Any) -> Geometry:
    """Mamba-2 in chunks of Q: masked C·Bᵀ and its product with X inside a chunk (causal half),
    chunk states and their read-out across: Q·G·N + Q·H·P + 4·H·P·N (Dao & Gu 2024, section 6).
    """
    _, _, heads, width = sizes["hidden_states"]
    groups, state = sizes["B"][-2:]
    inside = chunk * (groups * state + heads * width)
    flops = inside + 4.0 * heads * width * state
    elements = 2.0 * heads * width + 2.0 * groups * state + heads
    return Geometry("ssd", heads, state, width, flops, elements, heads * width * state)


def _gated_delta(sizes: Sizes, chunk: Any) -> Geometry:
    """Delta rule in chunks of C (WY form), a head: W·S, Q·S and KᵀU across chunks (6·K·V), the
    triangular products inside them (C·(3K + 2V)); Yang et al. 2024, section 3.
    """
    value = sizes["value"]
    heads, width = value[-2], value[-1]
    key = sizes["key"][-1]
    flops = heads * (6.0 * key * width + chunk * (3.0 * key + 2.0 * width))
    key_heads = sizes["key"][-2]
    elements = 2.0 * key_heads * key + 2.0 * heads * width + 2.0 * heads
    return Geometry("gated_delta", heads, key, width, flops, elements, heads * key * width)


def _kimi_delta(sizes: Sizes, chunk: Any) -> Geometry:
    """The gated delta rule with a decay for every key channel."""
    base = _gated_delta(sizes, chunk)
    flops = base.flops + base.heads * base.key_dim * base.value_dim
    elements = base.elements + base.heads * base.key_dim
    return Geometry(
        "kimi_delta", base.heads, base.key_dim, base.value_dim, flops, elements, base.state
    )


def _linear_attention(sizes: Sizes, chunk: Any) -> Geometry:
    """Keys and values summed into a (K x V) state a head, in chunks of C: Q·S and KᵀV across
    chunks (4·K·V), masked Q·Kᵀ and its product with V inside them (causal half: C·(K + V)); Qin
    et al. 2024 (Lightning Attention-2), section 3.
    """
    heads, key, value = sizes["state"]
    flops = heads * (4.0 * key * value + chunk * (key + value))
    elements = 2.0 * heads * (key + value)
    return Geometry("linear_attention", heads, key, value, flops, elements, heads * key * value)


def _state_update(sizes: Sizes, _: Any) -> Geometry:
    """One step of Mamba (a channel a head) or Mamba-2: decay, update and read the state."""
    state = sizes["state"]
    heads, width, size = (state[1], 1, state[2]) if len(state) == 3 else state[1:4]
    elements = 3.0 * heads * width + 2.0 * size
    return Geometry(
        "selective_scan" if width == 1 else "ssd", heads, size, width,
        6.0 * heads * width * size, elements, heads * width * size,
    )  # fmt: skip


_FORMULAS: dict[str, Callable[[Sizes, Any], Geometry]] = {
    "causal_conv1d_fn": _convolution,
    "causal_conv1d_update": _convolution,
    "selective_scan_fn": _selective_scan,
    "selective_state_update": _state_update,
    "linear_attention": _linear_attention,
    "mamba_chunk_scan_combined": _ssd,
    "chunk_gated_delta_rule": _gated_delta,
    "fused_recurrent_gated_delta_rule": _gated_delta,
    "chunk_kda": _kimi_delta,
    "fused_recurrent_kda": _kimi_delta,
}
