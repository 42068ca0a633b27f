"""Attention over the paged KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import HoldsWeights, split_kv_heads, split_units
from servesim.graph.work import AttentionWork


@KINDS.register("attention")
@dataclass(frozen=True, slots=True)
class Attention(HoldsWeights):
    """softmax(QK^T)V for every new token over its sequence's keys.

    Attributes:
        window: keys a token sees at most, its own included.
        chunk: attention stays inside aligned chunks of this many tokens (Llama 4).
        selected: keys an indexer picks for each token, at most (sparse attention).
        latent: the cache holds one latent vector of ``head_dim`` a token (absorbed MLA).
        phase: which sequences it serves: ``all``, ``prefill`` or ``decode``.
        softcap: tanh cap on the logits; 0 without.
        sinks: a learned logit a head takes part in the softmax.
        shared_kv: keys and values are another layer's: read, not written.
        causal: a token sees no later one.
        weights: elements of parameters it reads itself (sinks, position biases).
    """

    kind: ClassVar[str] = "attention"
    depends: ClassVar[str] = CONTEXT
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    scale: float = 0.0
    window: int | None = None
    chunk: int | None = None
    selected: int | None = None
    latent: bool = False
    phase: str = "all"
    softcap: float = 0.0
    sinks: bool = False
    shared_kv: bool = False
    causal: bool = True
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    weights: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """heads, kv_heads, head_dim, value_dim."""
        return (self.heads, self.kv_heads, self.head_dim, self.value_dim)

    def work(self, batch: BatchShape, label: str) -> AttentionWork:
        """Prefills one by one, decodes as sums.

        A decode that verifies drafts reads its keys once for all of its queries, as if these were
        further heads of a group. Beside prefills, which have no such queries, that is left out.

        Keys that decodes share are told of where all are attended to: of a window, each decode
        may see another part.

        Raises:
            ValueError: windows clip contexts that the batch does not list.
        """
        with_prefills, with_decodes = self.phase != "decode", self.phase != "prefill"
        keys, longest = self._decode_keys(batch) if with_decodes else (0, 0)
        whole = with_decodes and self.chunk is None and self._limit is None
        return AttentionWork(
            prefills=tuple(self._pieces(batch)) if with_prefills else (),
            decodes=batch.decodes if with_decodes else 0,
            decode_keys=keys,
            decode_keys_max=longest,
            heads=self.heads if batch.prefills else self.heads * (1 + batch.drafts),
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            dtype=self.dtype,
            kv_dtype=self.kv_dtype,
            window=self._limit,
            latent=self.latent,
            label=label,
            causal=self.causal,
            shared_keys=batch.shared_context if whole else 0,
            repeated_keys=batch.repeated_context if whole else 0,
        )

    def runs(self, batch: BatchShape) -> bool:
        """Whether any sequence of its phase is in the batch."""
        if self.phase == "all":
            return batch.tokens > 0
        return bool(batch.prefills if self.phase == "prefill" else batch.decodes)

    @property
    def _limit(self) -> int | None:
        limits = [n for n in (self.window, self.selected) if n is not None]
        return min(limits) if limits else None

    def _pieces(self, batch: BatchShape) -> Iterator[tuple[int, int]]:
        """Prefills, cut where a chunk ends: a new chunk starts on an empty context."""
        if self.chunk is None:
            yield from batch.prefills
            return
        for new, context in batch.prefills:
            start, end = context, context + new
            while start < end:
                inside = start % self.chunk
                piece = min(end - start, self.chunk - inside)
                yield piece, inside
                start += piece

    def _decode_keys(self, batch: BatchShape) -> tuple[int, int]:
        """Keys of all decodes together and of the one that reads most, own token included."""
        if not batch.decodes:
            return 0, 0
        longest = batch.decode_context_max + 1
        if self.chunk is not None and longest > self.chunk:
            if batch.contexts is None:
                raise ValueError("chunked attention needs the decodes' contexts one by one")
            seen = batch.contexts % self.chunk + 1
            return int(seen.sum()), int(seen.max())
        limit = self._limit
        clipped = batch.clipped_decode_context(None if limit is None else limit - 1)
        return clipped + batch.decodes, longest if limit is None else min(longest, limit)

    def local(self, ranks: int) -> Attention:
        """The heads of one rank; the latent vector and scarce KV heads are held by several.

        Raises:
            UnsupportedError: the heads do not divide.
        """
        heads = split_units("attention heads", self.heads, ranks)
        kv_heads = self.kv_heads if self.latent else split_kv_heads(self.kv_heads, ranks)
        weights = self.weights // ranks
        return replace(self, heads=heads, kv_heads=kv_heads, weights=weights)
