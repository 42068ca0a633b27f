"""How a paged allocator lays out what layers keep: equal pages, shared by groups of layers.

vLLM's rules (v0.19 to 0.32, ``v1/core/kv_cache_utils.py``): a block is a page in every layer of a
group. Models whose layers all keep every token, or all the same window, are one group. Otherwise
every kind of layer is cut into groups of equally many layers; a block then belongs to one group,
and groups share the memory pools. A recurrent state takes one page, and attention blocks are made
long enough for a state to fit a page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from servesim.errors import UnsupportedError
from servesim.graph.opgraph import CacheGroup, OpGraph
from servesim.graph.ops.recurrent import Recurrent

#: Attention blocks beside recurrent states are multiples of this many tokens (vLLM's kernels).
_ALIGNMENT, _LATENT_ALIGNMENT = 16, 64
#: Layers of one kind are padded to the most numerous kind while that has less than this times
#: the layers of the rarest (vLLM's heuristic).
_PADDING_LIMIT = 1.5


@dataclass(frozen=True, slots=True)
class KvGroup:
    """Layers that share a block table.

    Attributes:
        cache: what one of its layers keeps.
        block_size: tokens of a block.
        layers: layers that hold pages of it.
        checkpoints: whether a recurrent state inside a prefill is kept without ending a step there.
    """

    cache: CacheGroup
    block_size: int
    layers: int
    checkpoints: bool = False

    def blocks_for(self, tokens: int, max_num_batched_tokens: int) -> int:
        """Blocks a sequence of ``tokens`` may hold at once, its largest prefill chunk included."""
        if self.cache.kind == "state":
            return 1
        blocks = math.ceil(tokens / self.block_size)
        if self.cache.window is None:
            return blocks
        return min(self.most_blocks(max_num_batched_tokens), blocks + self._spare)

    def most_blocks(self, in_flight: int) -> int:
        """Blocks that a sequence may hold of a window beside which ``in_flight`` tokens come in."""
        kept = self._seen + in_flight
        return math.ceil(kept / self.block_size) + self._spare

    @property
    def _seen(self) -> int:
        """Earlier tokens that a token sees."""
        window = self.cache.window or 0
        return window if self.cache.kind == "chunked" else window - 1

    @property
    def _spare(self) -> int:
        """1 for a window that may start inside a block; chunks start with one."""
        return 0 if self.cache.kind == "chunked" else 1


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Groups of layers and what a block takes.

    Attributes:
        groups: those that have block tables of their own.
        block_bytes: bytes of one block over all the layers of its group.
        page_bytes: of one layer's part of a block (the mean, where layers differ).
    """

    groups: tuple[KvGroup, ...]
    block_bytes: float
    page_bytes: float

    def blocks(self, memory_bytes: float) -> int:
        """Whole blocks in ``memory_bytes``."""
        if not self.groups or memory_bytes <= 0:
            return 0
        return int(memory_bytes // self.block_bytes)

    def tokens(self, blocks: int) -> int:
        """Tokens as vLLM reports them: each sequence takes a block of every group."""
        if not self.groups:
            return 0
        return blocks // len(self.groups) * min(group.block_size for group in self.groups)

    def blocks_for(self, tokens: int, max_num_batched_tokens: int) -> int:
        """Blocks of all groups that one sequence of ``tokens`` may hold at once."""
        return sum(group.blocks_for(tokens, max_num_batched_tokens) for group in self.groups)

    def bytes_for(self, tokens: int, max_num_batched_tokens: int) -> float:
        """Bytes that one sequence of ``tokens`` needs."""
        pages = sum(g.layers * g.blocks_for(tokens, max_num_batched_tokens) for g in self.groups)
        return pages * self.page_bytes


def lay_out(caches: Sequence[CacheGroup], block_size: int, max_model_len: int) -> KvLayout:
    """The layout of ``caches`` in blocks of ``block_size`` tokens (more beside recurrent states).

    A purely recurrent model has one block a sequence, of ``max_model_len`` tokens.

    Raises:
        UnsupportedError: pages of different sizes that no whole block lengths make equal.
    """
    if not caches:
        return KvLayout((), 0.0, 0.0)
    attention = [cache for cache in caches if cache.kind != "state"]
    states = [cache for cache in caches if cache.kind == "state"]
    if not states and len({cache.window for cache in attention}) == 1:
        return _one_group(attention, block_size)
    if states and attention:
        block_size = max(block_size, _tokens_of_state(attention, states))
    pages = [cache.bytes_per_token * block_size for cache in attention]
    page = max(pages, default=max((cache.state_bytes for cache in states), default=0.0))
    kinds = [
        KvGroup(cache, block_size * _whole(page, own, cache), len(cache.layers))
        for cache, own in zip(attention, pages, strict=True)
    ]
    kinds += [KvGroup(cache, max_model_len, len(cache.layers)) for cache in states]
    return _equal_groups(_merged(kinds), page)


def with_checkpoints(groups: Sequence[KvGroup], graph: OpGraph) -> tuple[KvGroup, ...]:
    """``groups`` of ``graph``; vLLM's kernels (0.32) write checkpoints of Mamba-2 states."""
    able = {
        layer
        for block in graph.blocks
        for op in block.ops
        if isinstance(op.spec, Recurrent) and op.spec.recurrence == "ssd"
        for layer in block.layers
    }
    return tuple(
        replace(g, checkpoints=g.cache.kind == "state" and able.issuperset(g.cache.layers))
        for g in groups
    )


def _tokens_of_state(attention: Sequence[CacheGroup], states: Sequence[CacheGroup]) -> int:
    """The shortest attention block whose page holds a recurrent state."""
    latent = any(cache.kind == "latent" for cache in attention)
    alignment = _LATENT_ALIGNMENT if latent else _ALIGNMENT
    token = min(cache.bytes_per_token for cache in attention)
    state = max(cache.state_bytes for cache in states)
    return alignment * math.ceil(state / (alignment * token))


def _one_group(caches: Sequence[CacheGroup], block_size: int) -> KvLayout:
    """All layers need the same token slots: a block holds one page of each, of its own size."""
    layers = sum(len(cache.layers) for cache in caches)
    token = sum(len(cache.layers) * cache.bytes_per_token for cache in caches)
    group = KvGroup(caches[0], block_size, layers)
    return KvLayout((group,), token * block_size, token * block_size / layers)


def _whole(page: float, own: float, cache: CacheGroup) -> int:
    """Times a block must be longer for its page to be as large as ``page``.

    Raises:
        UnsupportedError: no whole number does it.
    """
    if page % own:
        raise UnsupportedError(
            f"KV pages of {own:g} B ({cache.kind}) and of {page:g} B cannot be made equal"
        )
    return int(page // own)


def _merged(kinds: Sequence[KvGroup]) -> list[KvGroup]:
    """Layers of equal kind together."""
    merged: dict[tuple[object, ...], KvGroup] = {}
    for kind in kinds:
        state = kind.cache.kind == "state"
        key = (state, kind.cache.window, kind.block_size, kind.cache.bytes_per_token)
        seen = merged.get(key)
        merged[key] = kind if seen is None else replace(seen, layers=seen.layers + kind.layers)
    return list(merged.values())


def _equal_groups(kinds: Sequence[KvGroup], page_bytes: float) -> KvLayout:
    """Every kind cut into groups of equally many layers, the last of a kind padded."""
    counts = [kind.layers for kind in kinds]
    size = min(counts)
    if max(counts) < _PADDING_LIMIT * size:
        size = max(counts)
    groups = []
    for kind in kinds:
        number = math.ceil(kind.layers / size)
        # Layers are dealt round robin, so that every pipeline stage holds some of each group.
        groups += [
            replace(kind, layers=len(range(index, kind.layers, number))) for index in range(number)
        ]
    return KvLayout(tuple(groups), size * page_bytes, page_bytes)
