"""vLLM's attention layer over a paged cache, and its latent attention (MLA), on a CPU."""

from __future__ import annotations

import random as random_module
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.work import AttentionWork, Work
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.tensors import random, torch_dtype
from servesim.hardware.measure.kernels.vllm_setup import config, forget, in_forward, made
from servesim.hardware.measure.timer import Call

_NAME = "measured.attn"
#: Tokens of a cache block that latent attention on a CPU insists on.
_LATENT_BLOCK = 16
#: Calls each read another part of the cache, so that none finds its keys in a processor's cache.
_PLACES = 32


def attention(spec: Any, room: Room) -> Paged | LatentDecode | LatentPrefill:
    """The bench for a plain, an absorbed latent or an expanded latent attention."""
    if room.device != "cpu":
        raise UnsupportedError("vLLM's attention is measured on CPUs only")
    config()
    if spec.latent:
        return LatentDecode(spec, room)
    if spec.head_dim != spec.value_dim:
        return LatentPrefill(spec, room)
    return Paged(spec, room)


class Sequences:
    """The sequences of a batch as vLLM lays them out: decodes first, then prefills."""

    def __init__(self, work: AttentionWork) -> None:
        import torch

        mean = work.decode_keys // work.decodes if work.decodes else 0
        self.new = [1] * work.decodes + [new for new, _ in work.prefills]
        self.keys = [mean] * work.decodes + [new + context for new, context in work.prefills]
        self.tokens = sum(self.new)
        starts = torch.tensor([0, *self.new], dtype=torch.int32)
        self.starts = starts.cumsum(0, dtype=torch.int32)
        self.lengths = torch.tensor(self.keys, dtype=torch.int32)

    def blocks(self, size: int) -> int:
        """Blocks that their keys take."""
        return sum(-(-keys // size) for keys in self.keys)

    def table(self, size: int) -> Any:
        """Block table when blocks of ``size`` tokens are dealt out from the first on."""
        import torch

        counts = [-(-keys // size) for keys in self.keys]
        table, first = torch.zeros((len(counts), max(counts)), dtype=torch.int32), 0
        for row, count in enumerate(counts):
            table[row, :count] = torch.arange(first, first + count, dtype=torch.int32)
            first += count
        return table

    def slots(self, table: Any, size: int) -> Any:
        """Where the new tokens go."""
        import torch

        found = []
        for row, (new, keys) in enumerate(zip(self.new, self.keys, strict=True)):
            position = torch.arange(keys - new, keys)
            found.append(table[row, position // size].long() * size + position % size)
        return torch.cat(found)

    def places(self, size: int, cache_blocks: int) -> list[tuple[Any, Any]]:
        """Block tables and slots at random places of a cache of so many blocks.

        Seeded by the batch, so that the next batch reads others.
        """
        table = self.table(size)
        slots = self.slots(table, size)
        draw = random_module.Random(str((self.new, self.keys)))
        free = max(1, cache_blocks - self.blocks(size) + 1)
        firsts = [draw.randrange(free) for _ in range(_PLACES)]
        return [(table + first, slots + first * size) for first in firsts]


class Paged:
    """The layer, its cache update included."""

    def __init__(self, spec: Any, room: Room) -> None:
        self.spec, self.room = spec, room
        self.cache: Any = None
        self.layer = made(self._layer)

    def calls(self, work: Work) -> Sequence[Call]:
        """``work`` at many places of the cache."""
        assert isinstance(work, AttentionWork)
        batch = Sequences(work)
        self._reserve(batch.blocks(self.room.block_size))
        seen = self._metadata(work, batch)
        metadata: dict[str, Any] = {_NAME: seen[0]}
        slots: dict[str, Any] = {_NAME: seen[0].slot_mapping}
        in_forward(metadata, slots)
        heads, kv = work.heads * work.head_dim, work.kv_heads * work.head_dim
        q, k, v = (random((batch.tokens, n), work.dtype, self.room.device) for n in (heads, kv, kv))
        return [partial(self._run, place, (q, k, v)) for place in seen]

    def _layer(self) -> Any:
        from vllm.model_executor.layers.attention import Attention
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, _get_attn_isa

        forget(_NAME)
        spec = self.spec
        config().model_config = SimpleNamespace(
            dtype=torch_dtype(spec.dtype), is_mm_prefix_lm=False
        )
        layer = Attention(
            spec.heads,
            spec.head_dim,
            spec.head_dim**-0.5,
            spec.kv_heads,
            cache_config=config().cache_config,
            logits_soft_cap=spec.softcap or None,
            per_layer_sliding_window=spec.window,
            prefix=_NAME,
            attn_backend=CPUAttentionBackend,
        )
        config().model_config = None
        layer.isa = _get_attn_isa(
            torch_dtype(spec.dtype), self.room.block_size, spec.head_dim, "auto"
        )
        return layer

    def _reserve(self, need: int) -> None:
        block = self.spec.kv_heads * self.room.block_size * 2 * self.spec.head_dim
        wanted = max(need, int(self.room.cycled_bytes // (2 * block)))
        if self.cache is None or self.cache.shape[0] < wanted:
            shape = (wanted, self.spec.kv_heads, self.room.block_size, 2 * self.spec.head_dim)
            self.cache = random(shape, self.spec.kv_dtype, self.room.device)
            self.layer.kv_cache = self.cache

    def _metadata(self, work: AttentionWork, batch: Sequences) -> list[Any]:
        from vllm import _custom_ops as ops
        from vllm import envs
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadata

        scheduled = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(batch.new),
            num_heads=work.heads,
            num_kv_heads=work.kv_heads,
            head_dim=work.head_dim,
            seq_lens=batch.lengths,
            dtype=torch_dtype(work.dtype),
            query_start_loc=batch.starts,
            causal=work.causal,
            sliding_window_size=work.window or -1,
            isa=self.layer.isa,
            enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,
        )
        return [
            CPUAttentionMetadata(
                num_actual_tokens=batch.tokens,
                max_query_len=max(batch.new),
                query_start_loc=batch.starts,
                max_seq_len=max(batch.keys),
                seq_lens=batch.lengths,
                block_table=table,
                slot_mapping=slots,
                scheduler_metadata=scheduled,
                causal=work.causal,
            )
            for table, slots in batch.places(self.room.block_size, self.cache.shape[0])
        ]

    def _run(self, place: Any, qkv: tuple[Any, ...]) -> Any:
        from vllm.forward_context import get_forward_context

        seen = get_forward_context()
        seen.attn_metadata[_NAME] = place
        seen.slot_mapping[_NAME] = place.slot_mapping
        return self.layer(*qkv)


class LatentDecode:
    """Absorbed decodes: the cache is written, then read by the kernel for 576 elements a token."""

    def __init__(self, spec: Any, room: Room) -> None:
        if (spec.head_dim, spec.value_dim) != (576, 512):
            raise UnsupportedError("vLLM's latent attention on a CPU takes 512 + 64 elements")
        self.spec, self.room = spec, room
        self.cache: Any = None

    def calls(self, work: Work) -> Sequence[Call]:
        """``work`` at many places of the cache."""
        assert isinstance(work, AttentionWork)
        batch = Sequences(work)
        block = _LATENT_BLOCK * work.head_dim
        wanted = max(batch.blocks(_LATENT_BLOCK), int(self.room.cycled_bytes // (2 * block)))
        if self.cache is None or self.cache.shape[0] < wanted:
            shape = (wanted, _LATENT_BLOCK, work.head_dim)
            self.cache = random(shape, work.kv_dtype, self.room.device)
        query = random((work.decodes, work.heads, work.head_dim), work.dtype, self.room.device)
        latent = random((work.decodes, work.head_dim), work.dtype, self.room.device)
        return [
            partial(self._run, query, latent, table, slots, batch.lengths)
            for table, slots in batch.places(_LATENT_BLOCK, self.cache.shape[0])
        ]

    def _run(self, query: Any, latent: Any, table: Any, slots: Any, lengths: Any) -> Any:
        import torch
        from vllm import _custom_ops as ops

        flat = self.cache.view(-1, self.spec.head_dim)
        flat[slots, : self.spec.value_dim] = latent[:, : self.spec.value_dim]
        flat[slots, self.spec.value_dim :] = latent[:, self.spec.value_dim :]
        q = torch.cat((query[..., : self.spec.value_dim], query[..., self.spec.value_dim :]), -1)
        out = torch.zeros((*query.shape[:2], self.spec.value_dim), dtype=query.dtype)
        ops.mla_decode_kvcache_cpu(out, q, self.cache, 0.07, table, lengths)
        return out


class LatentPrefill:
    """Expanded prefills, each against its new tokens and, apart, its context; then merged."""

    def __init__(self, spec: Any, room: Room) -> None:
        self.spec, self.room = spec, room

    def calls(self, work: Work) -> Sequence[Call]:
        """``work`` once: keys and values were just expanded."""
        import torch
        from vllm.v1.attention.backends.mla.prefill.cpu_sdpa import CPUSDPAMLAPrefillBackend

        assert isinstance(work, AttentionWork)
        new = [n for n, _ in work.prefills]
        contexts = [c for _, c in work.prefills]
        attend = partial(CPUSDPAMLAPrefillBackend._ragged_sdpa, SimpleNamespace(scale=0.07))
        queries = torch.tensor([0, *new]).cumsum(0)
        past = torch.tensor([0, *contexts]).cumsum(0)
        q = self._heads(sum(new), work.head_dim)
        fresh = self._heads(sum(new), work.head_dim), self._heads(sum(new), work.value_dim)
        old = self._heads(sum(contexts), work.head_dim), self._heads(sum(contexts), work.value_dim)

        def run() -> Any:
            if not any(contexts):
                return attend(q, *fresh, queries, queries, True, False)
            first, first_lse = attend(q, *fresh, queries, queries, True, True)
            second, second_lse = attend(q, *old, queries, past, False, True)
            return _merged(first, first_lse, second, second_lse)

        return [run]

    def _heads(self, tokens: int, width: int) -> Any:
        return random((tokens, self.spec.heads, width), self.spec.dtype, self.room.device)


def _merged(first: Any, first_lse: Any, second: Any, second_lse: Any) -> Any:
    """Two partial attentions as one."""
    import torch
    from vllm.v1.attention.ops.merge_attn_states import merge_attn_states

    out = torch.empty_like(first)
    merge_attn_states(out, second, second_lse, first, first_lse)
    return out
