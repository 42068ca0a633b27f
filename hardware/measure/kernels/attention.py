"""Attention by torch: its scaled dot product, and its flash kernel over packed prefills on GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.ops.gathered import GatheredAttention
from servesim.graph.work import AttentionWork, Work
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.tensors import copies, random
from servesim.hardware.measure.timer import Call


class Attention:
    """Prefills one by one, or packed on a GPU; decodes together, all with the mean context.

    Latent attention is one key/value head whose values are the first elements of its keys. Over
    gathered keys a mask is always given.
    """

    def __init__(self, spec: Any, room: Room) -> None:
        self.spec, self.room = spec, room
        self.gathered = isinstance(spec, GatheredAttention)
        self.packed = room.device == "cuda" and _for_flash(spec) and not self.gathered
        if spec.softcap or spec.sinks:
            raise UnsupportedError("scaled dot product attention knows no soft caps and no sinks")
        if spec.latent and room.device == "cuda":
            raise UnsupportedError("torch has no kernel of latent attention for GPUs")

    def calls(self, work: Work) -> Sequence[Call]:
        """``work`` on several caches."""
        assert isinstance(work, AttentionWork)
        if work.repeated_keys:
            raise UnsupportedError("scaled dot product attention has no blocks to share")
        bytes_read = work.bytes_read
        count = self.room.copies(bytes_read)
        apart = () if self.packed else work.prefills
        pieces = [self._prefill(work, *prefill) for prefill in apart]
        if work.decodes:
            pieces.append(self._decodes(work))
        bound = [self._bound(piece, count) for piece in pieces]
        if self.packed and work.prefills:
            bound.append(self._packed(work, count))
        if len(bound) == 1:
            return bound[0]
        return [partial(_all, calls) for calls in zip(*bound, strict=True)]

    def _packed(self, work: AttentionWork, count: int) -> list[Call]:
        """All prefills in one call, as serving engines make it."""
        import torch

        device, window = self.room.device, work.window
        queries = [new for new, _ in work.prefills]
        keys = [new + context for new, context in work.prefills]
        starts = [
            torch.tensor([0, *sizes], device=device).cumsum(0, dtype=torch.int32)
            for sizes in (queries, keys)
        ]
        query = random((sum(queries), work.heads, work.head_dim), work.dtype, device)
        window_options = {"window_size_left": window - 1, "window_size_right": 0} if window else {}
        rest = *starts, max(queries), max(keys), 0.0, work.causal, False
        stored = random((2, sum(keys), work.kv_heads, work.head_dim), work.dtype, device)
        return [
            partial(_flash, query, *kv, *rest, **window_options) for kv in copies(stored, count)
        ]

    def _prefill(self, work: AttentionWork, new: int, context: int) -> tuple[Any, ...]:
        import torch

        keys = new + context
        mask = None
        if context or work.window is not None or self.gathered:
            mask = torch.ones((new, keys), dtype=torch.bool, device=self.room.device)
            mask = mask.tril(context)
            if work.window is not None:
                mask = mask.triu(context - work.window + 1)
        return *self._operands(work, 1, new, keys), mask, mask is None and work.causal

    def _decodes(self, work: AttentionWork) -> tuple[Any, ...]:
        keys = round(work.decode_keys / work.decodes)
        return *self._operands(work, work.decodes, 1, keys), None, False

    def _operands(
        self, work: AttentionWork, batch: int, queries: int, keys: int
    ) -> tuple[Any, ...]:
        device = self.room.device
        query = random((batch, work.heads, queries, work.head_dim), work.dtype, device)
        key = random((batch, work.kv_heads, keys, work.head_dim), work.dtype, device)
        if work.latent:
            return query, key, None
        value = random((batch, work.kv_heads, keys, work.value_dim), work.dtype, device)
        return query, key, value

    def _bound(self, piece: tuple[Any, ...], count: int) -> list[Call]:
        from torch.nn.functional import scaled_dot_product_attention as attend

        query, key, value, mask, causal = piece
        found: list[Call] = []
        for k in copies(key, count):
            v = k[..., : self.spec.value_dim] if value is None else value.clone()
            found.append(
                partial(attend, query, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
            )
        return found


def _for_flash(spec: Any) -> bool:
    """Whether torch's flash kernel takes such heads."""
    return spec.head_dim == spec.value_dim <= 256 and spec.dtype in ("bf16", "fp16")


def _flash(*operands: Any, **options: Any) -> Any:
    import torch

    return torch.ops.aten._flash_attention_forward(*operands, **options)


def _all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()
