"""The work of one attention kernel (see ``work.py``, which gives it to all who need work)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.dtypes import bytes_per_element


def attended_pairs(new: int, context: int, window: int | None = None) -> int:
    """(query, key) pairs of a causal prefill of ``new`` tokens after ``context``.

    Token i (from 0) attends to min(context + i + 1, window) keys.
    """
    if window is None or context + new <= window:
        return new * context + new * (new + 1) // 2
    if context + 1 >= window:
        return new * window
    growing = window - context - 1  # tokens that still see fewer than ``window`` keys
    return attended_pairs(growing, context) + (new - growing) * window


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """Paged attention over a batch of prefills and decodes, softmax included.

    Attributes:
        prefills: (new tokens, context before the step) of each prefill.
        decodes: sequences with one new token.
        decode_keys: keys read by all decodes together, own token included and clipped to the
            window: sum of min(context + 1, window).
        decode_keys_max: the most keys any one decode reads.
        heads, kv_heads: query and key/value heads on this device.
        head_dim, value_dim: width of a query/key head and of a value head.
        window: sliding window in tokens, own token included; None for full attention.
        kv_dtype: number format of the KV cache.
        latent: keys and values are one latent vector of ``head_dim`` elements (MLA, absorbed).
        causal: a token sees no later one; without, every token of a prefill sees all the others.
        shared_keys: keys, each counted once, that several decodes read.
        repeated_keys: of ``decode_keys``, reads of such keys after the first: from a cache, if it
            holds them.
    """

    family: ClassVar[str] = "attention"
    prefills: tuple[tuple[int, int], ...]
    decodes: int
    decode_keys: int
    decode_keys_max: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    window: int | None = None
    latent: bool = False
    label: str = "attention"
    causal: bool = True
    shared_keys: int = 0
    repeated_keys: int = 0

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of one token's keys and values in this layer's cache on this device."""
        width = self.head_dim if self.latent else self.kv_heads * (self.head_dim + self.value_dim)
        return width * bytes_per_element(self.kv_dtype)

    @property
    def prefill_pairs(self) -> int:
        """(query, key) pairs of all prefills."""
        if not self.causal:
            return sum(new * (new + context) for new, context in self.prefills)
        return sum(attended_pairs(new, context, self.window) for new, context in self.prefills)

    @property
    def flops(self) -> float:
        """2·pairs·heads·(head_dim + value_dim): QK^T and PV."""
        pairs = self.prefill_pairs + self.decode_keys
        return 2.0 * pairs * self.heads * (self.head_dim + self.value_dim)

    @property
    def query_tokens(self) -> int:
        """New tokens of all sequences."""
        return self.decodes + sum(new for new, _ in self.prefills)

    @property
    def bytes_read(self) -> float:
        """Queries, and every attended key and value once per sequence."""
        keys = self.decode_keys
        for new, context in self.prefills:
            seen = new + context if self.window is None else min(context, self.window) + new
            keys += seen
        queries = self.query_tokens * self.heads * self.head_dim * bytes_per_element(self.dtype)
        return keys * self.kv_bytes_per_token + queries

    @property
    def bytes_written(self) -> float:
        """Outputs and the new tokens' keys and values."""
        out = self.query_tokens * self.heads * self.value_dim * bytes_per_element(self.dtype)
        return out + self.query_tokens * self.kv_bytes_per_token
