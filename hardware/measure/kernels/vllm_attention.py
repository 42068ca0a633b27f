"""vLLM's attention layer over a paged cache on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.work import AttentionWork, Work
from servesim.hardware.measure.bench import Bench, Room
from servesim.hardware.measure.kernels.tensors import random, torch_dtype
from servesim.hardware.measure.kernels.vllm_batch import Sequences
from servesim.hardware.measure.kernels.vllm_latent import LatentDecode, LatentPrefill
from servesim.hardware.measure.kernels.vllm_setup import config, forget, in_forward, made
from servesim.hardware.measure.timer import Call

_NAME = "measured.attn"


def attention(spec: Any, room: Room) -> Bench:
    """The bench for a plain, an absorbed latent or an expanded latent attention."""
    if room.device != "cpu":
        raise UnsupportedError("vLLM's attention is measured on CPUs only")
    config()
    if spec.latent:
        return LatentDecode(spec, room)
    if spec.head_dim != spec.value_dim:
        return LatentPrefill(spec, room)
    return Paged(spec, room)


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

        schedule = partial(
            ops.cpu_attn_get_scheduler_metadata,
            num_reqs=len(batch.new),
            num_heads=work.heads,
            num_kv_heads=work.kv_heads,
            head_dim=work.head_dim,
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
                max_seq_len=int(place.lengths.max()),
                seq_lens=place.lengths,
                block_table=place.table,
                slot_mapping=place.slots,
                scheduler_metadata=schedule(seq_lens=place.lengths),
                causal=work.causal,
            )
            for place in batch.places(self.room.block_size, self.cache.shape[0])
        ]

    def _run(self, place: Any, qkv: tuple[Any, ...]) -> Any:
        from vllm.forward_context import get_forward_context

        seen = get_forward_context()
        seen.attn_metadata[_NAME] = place
        seen.slot_mapping[_NAME] = place.slot_mapping
        return self.layer(*qkv)
