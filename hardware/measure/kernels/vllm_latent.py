"""vLLM's latent attention (MLA) on a CPU, in the pieces that operator graphs have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import AttentionWork, GemmWork, Work
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.tensors import copies, random
from servesim.hardware.measure.kernels.vllm_batch import Place, Sequences
from servesim.hardware.measure.timer import Call

#: Tokens of a cache block, and elements of a token (latent, rotated), that its CPU kernel takes.
_BLOCK, _LATENT, _ROTATED = 16, 512, 64


class Absorbed:
    """The product of a head's queries, or results, with its part of the expanding matrix.

    vLLM keeps views of that matrix: (head, key and value element, latent element) in memory.
    """

    def __init__(self, spec: Any, room: Room) -> None:
        self.spec, self.room = spec, room
        inner = min(spec.n, spec.k)  # elements of a key or value; as many belong to the other
        first = random((spec.heads, 2 * inner, _other(spec, inner)), spec.weight, room.device)
        count = room.copies(first.numel() * bytes_per_element(spec.weight))
        parts = [weight[:, :inner] for weight in copies(first, count)]
        self.weights = parts if spec.n > spec.k else [part.transpose(1, 2) for part in parts]

    def calls(self, work: Work) -> Sequence[Call]:
        """``work.m`` rows a head with each copy of the weights."""
        assert isinstance(work, GemmWork)
        x, out = (
            random((work.m, work.batch, width), work.dtype, self.room.device).transpose(0, 1)
            for width in (work.k, work.n)
        )
        return [partial(_product, x, weight, out) for weight in self.weights]


class _Cache:
    """Latents and rotated keys of tokens, in blocks."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.blocks: Any = None

    def places(self, batch: Sequences, dtype: str) -> list[Place]:
        """Places of ``batch`` all over a cache that is large enough."""
        size = _BLOCK * (_LATENT + _ROTATED)
        wanted = max(batch.blocks(_BLOCK), int(self.room.cycled_bytes // (2 * size)))
        if self.blocks is None or self.blocks.shape[0] < wanted:
            shape = (wanted, _BLOCK, _LATENT + _ROTATED)
            self.blocks = random(shape, dtype, self.room.device)
        return batch.places(_BLOCK, self.blocks.shape[0])

    def write(self, latent: Any, rotated: Any, slots: Any) -> None:
        """Put new tokens where they go, as the engine does."""
        flat = self.blocks.view(-1, _LATENT + _ROTATED)
        assert (slots >= 0).all().item()  # which the engine looks up, too
        flat[slots, :_LATENT] = latent
        flat[slots, _LATENT:] = rotated


class LatentDecode:
    """Absorbed decodes: the cache is written, then read by the kernel for 576 elements a token."""

    def __init__(self, spec: Any, room: Room) -> None:
        if (spec.head_dim, spec.value_dim) != (_LATENT + _ROTATED, _LATENT):
            raise UnsupportedError("vLLM's latent attention on a CPU takes 512 + 64 elements")
        self.spec, self.room = spec, room
        self.cache = _Cache(room)

    def calls(self, work: Work) -> Sequence[Call]:
        """``work`` at many places of the cache."""
        assert isinstance(work, AttentionWork)
        batch = Sequences(work)
        places = self.cache.places(batch, work.kv_dtype)
        query = [
            random((work.decodes, work.heads, width), work.dtype, self.room.device)
            for width in (_LATENT, _ROTATED)
        ]
        new = random((work.decodes, work.head_dim), work.dtype, self.room.device)
        return [partial(self._run, query, new, place) for place in places]

    def _run(self, query: list[Any], new: Any, place: Place) -> Any:
        import torch
        from vllm import _custom_ops as ops

        self.cache.write(new[:, :_LATENT], new[:, _LATENT:], place.slots)
        q = torch.cat(query, dim=-1).contiguous()
        out = torch.zeros((*q.shape[:2], _LATENT), dtype=q.dtype)
        ops.mla_decode_kvcache_cpu(out, q, self.cache.blocks, 0.07, place.table, place.lengths)
        return out


class LatentPrefill:
    """Expanded prefills, each against its new tokens and, apart, its context; then merged.

    The cache is written, the context read back, and keys put together from what was expanded and
    what was rotated; the expansion itself is an operator of its own.
    """

    def __init__(self, spec: Any, room: Room) -> None:
        self.spec, self.room = spec, room
        self.cache = _Cache(room)

    def calls(self, work: Work) -> Sequence[Call]:
        """``work`` at many places of the cache, keys and values just expanded."""
        import torch

        assert isinstance(work, AttentionWork)
        batch = Sequences(work)
        contexts = [context for _, context in work.prefills]
        starts = batch.starts.long(), torch.tensor([0, *contexts]).cumsum(0)
        q = self._heads(batch.tokens, work.head_dim)
        fresh, old = self._tokens(batch.tokens), self._tokens(sum(contexts))
        return [
            partial(self._run, q, fresh, old, starts, place)
            for place in self.cache.places(batch, work.kv_dtype)
        ]

    def _run(self, q: Any, fresh: Any, old: Any, starts: Any, place: Place) -> Any:
        import torch
        from vllm import _custom_ops as ops
        from vllm.v1.attention.backends.mla.prefill.cpu_sdpa import CPUSDPAMLAPrefillBackend
        from vllm.v1.attention.ops.merge_attn_states import merge_attn_states

        attend = partial(CPUSDPAMLAPrefillBackend._ragged_sdpa, SimpleNamespace(scale=0.07))
        new, past = starts
        self.cache.write(fresh[1], fresh[2].squeeze(1), place.slots)
        out = torch.empty((q.shape[0], q.shape[1], self.spec.value_dim), dtype=q.dtype)
        if not past[-1]:
            return out.copy_(attend(q, *self._keys(fresh), new, new, True, False))
        first, first_lse = attend(q, *self._keys(fresh), new, new, True, True)
        read = torch.empty((int(past[-1]), _LATENT + _ROTATED), dtype=q.dtype)
        ops.gather_mla_context_cache_cpu(
            src_cache=self.cache.blocks,
            dst=read,
            block_table=place.table,
            starts=torch.zeros(len(past) - 1, dtype=torch.long),
            cu_seq_lens=past,
        )
        second, second_lse = attend(q, *self._keys(old), new, past, False, True)
        merge_attn_states(out, second, second_lse, first, first_lse)
        return out

    def _keys(self, tokens: Any) -> tuple[Any, Any]:
        """Keys and values as the layer makes them of what was expanded and rotated."""
        import torch

        expanded, _, rotated = tokens
        own = self.spec.head_dim - rotated.shape[-1]
        key_part, values = expanded.split([own, self.spec.value_dim], dim=-1)
        keys = torch.empty((*key_part.shape[:-1], self.spec.head_dim), dtype=key_part.dtype)
        keys[..., :own] = key_part
        keys[..., own:] = rotated
        return keys, values

    def _tokens(self, count: int) -> tuple[Any, Any, Any]:
        """Expanded keys and values, latents and rotated keys of so many tokens."""
        rotated = min(_ROTATED, self.spec.head_dim)
        expanded = self._heads(count, self.spec.head_dim - rotated + self.spec.value_dim)
        latent, turned = (
            random((count, *shape), self.spec.dtype, self.room.device)
            for shape in ((_LATENT,), (1, rotated))
        )
        return expanded, latent, turned

    def _heads(self, tokens: int, width: int) -> Any:
        return random((tokens, self.spec.heads, width), self.spec.dtype, self.room.device)


def _product(x: Any, weight: Any, out: Any) -> Any:
    import torch

    return torch.bmm(x, weight, out=out)


def _other(spec: Any, inner: int) -> int:
    """The latent elements: the larger side of the product."""
    return int(spec.n + spec.k - inner)
