"""Tensor parallelism inferred from the graph: who holds what, and which collectives that needs.

Every value is *replicated* (each rank has all of it), *sharded* (each rank has its heads or
columns) or *partial* (the ranks' values add up to it). The rules are those of Megatron-style
parallelism: projections into a mixer or an activation split their columns, projections out of it
their rows, and a partial sum is all-reduced before anything but an addition reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from servesim.errors import InputError
from servesim.graph.op import STREAM, Op, OpSpec
from servesim.graph.opgraph import Block, CacheGroup, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.batched_gemm import BatchedGemm
from servesim.graph.ops.collective import Collective, LogitsGather
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.latent_expand import LatentExpand
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.norm import Norm
from servesim.graph.ops.other import Other
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.ops.recurrent import Recurrent

#: A GEMM's tile has at least as many columns.
_FEW_COLUMNS = 32


class State(Enum):
    """How the ranks hold a value."""

    REPLICATED = "replicated"
    SHARDED = "sharded"
    PARTIAL = "partial"


def shard(
    graph: OpGraph, tensor_parallel_size: int, *, enable_expert_parallel: bool = False
) -> OpGraph:
    """The graph of one of ``tensor_parallel_size`` ranks, collectives inserted.

    Args:
        enable_expert_parallel: deal whole experts to the ranks, not slices of each.

    Raises:
        InputError: the size is no positive number, or the graph is sharded already.
        UnsupportedError: heads, experts' widths or columns do not divide among the ranks.
    """
    if tensor_parallel_size < 1:
        raise InputError(f"tensor_parallel_size must be at least 1, not {tensor_parallel_size}")
    if graph.tensor_parallel_size != 1:
        raise InputError(f"the graph is already sharded {graph.tensor_parallel_size} ways")
    if tensor_parallel_size == 1:
        return graph
    blocks = tuple(
        _BlockSharder(block, tensor_parallel_size, graph.dtype, enable_expert_parallel).result()
        for block in graph.blocks
    )
    sharded = replace(
        graph,
        blocks=blocks,
        caches=tuple(_shard_cache(c, graph, blocks) for c in graph.caches),
        weight_bytes=graph.weight_bytes - _saved(graph.blocks, blocks),
        tensor_parallel_size=tensor_parallel_size,
    )
    sharded.lint()
    return sharded


def _saved(whole: Sequence[Block], local: Sequence[Block]) -> float:
    """Bytes of weights that a rank does not hold."""

    def held(blocks: Sequence[Block]) -> float:
        return sum(op.spec.weight_bytes * b.count for b in blocks for op in b.ops)

    return held(whole) - held(local)


def _shard_cache(cache: CacheGroup, whole: OpGraph, local: Sequence[Block]) -> CacheGroup:
    """A rank's part of the cache: its KV heads or its share of the state."""
    for before, after in zip(whole.blocks, local, strict=True):
        if cache.layers[0] not in before.layers:
            continue
        for old in before.ops:
            new = next(op for op in after.ops if op.name == old.name)
            if cache.kind == "state" and isinstance(old.spec, Recurrent):
                assert isinstance(new.spec, Recurrent)
                share = new.spec.heads / old.spec.heads
                return replace(cache, state_bytes=cache.state_bytes * share)
            if cache.kind not in {"state", "latent"} and isinstance(old.spec, Attention):
                assert isinstance(new.spec, Attention)
                share = new.spec.kv_heads / old.spec.kv_heads
                return replace(cache, bytes_per_token=cache.bytes_per_token * share)
    return cache


class _BlockSharder:
    """Propagates states through one block."""

    def __init__(self, block: Block, ranks: int, dtype: str, by_expert: bool) -> None:
        self._block, self._ranks, self._dtype = block, ranks, dtype
        self._by_expert = by_expert
        self._states: dict[str, State] = {STREAM: State.REPLICATED}
        self._renamed: dict[str, str] = {}
        self._ops: list[Op] = []
        self._collectives = 0
        self._users: dict[str, list[Op]] = {}
        for op in block.ops:
            for name in op.inputs:
                self._users.setdefault(name, []).append(op)

    def result(self) -> Block:
        """The block of one rank."""
        for op in self._block.ops:
            self._add(op)
        ends = [op.name for op in self._block.ops if op.name not in self._users]
        self._reduce([n for n in ends if self._states[n] is State.PARTIAL])
        return replace(self._block, ops=tuple(self._ops))

    def _add(self, op: Op) -> None:
        states = {self._states[name] for name in op.inputs}
        spec = op.spec
        if State.PARTIAL in states and not _is_sum(op):
            self._reduce([n for n in op.inputs if self._states[n] is State.PARTIAL])
            states = {self._states[name] for name in op.inputs}
        inputs = tuple(dict.fromkeys(self._renamed.get(n, n) for n in op.inputs))
        if State.SHARDED in states and isinstance(spec, Norm) and self._spans_ranks(op):
            # Every rank norms the whole vector and goes on with its own heads.
            inputs = (self._gather(op),)
            local, state = op.spec, State.SHARDED
        else:
            local, state = self._local(op, states)
        self._ops.append(replace(op, spec=local, inputs=inputs))
        self._states[op.name] = state
        if isinstance(spec, Embedding) and state is State.PARTIAL:
            self._reduce([op.name])
        if isinstance(spec, LmHead):
            gather = LogitsGather(spec.n, self._ranks, dtype=self._dtype)
            self._insert("logits_all_gather", gather, [op.name], "all_gather")

    def _local(self, op: Op, states: set[State]) -> tuple[OpSpec, State]:
        """The operator of one rank, and how its result is held."""
        spec, ranks = op.spec, self._ranks
        local: OpSpec = spec
        state = State.REPLICATED
        match spec:
            case Gemm() if State.SHARDED in states:
                local, state = spec.rows(ranks), State.PARTIAL
            case Gemm() if self._splits_columns(op):
                local, state = spec.columns(ranks), State.SHARDED
            case Embedding() if op.name.split(".")[0] == "embedding":  # of tokens
                local, state = spec.columns(ranks), State.PARTIAL
            case LmHead():
                local = spec.columns(ranks)
            case Experts():
                local = spec.by_expert(ranks) if self._by_expert else spec.local(ranks)
                state = State.PARTIAL
            case Attention() | BatchedGemm() | LatentExpand() | Recurrent():
                local, state = spec.local(ranks), State.SHARDED
            case Norm() if State.SHARDED in states:
                local = spec.local(ranks) if spec.groups > 1 else spec.narrowed(ranks)
                state = State.SHARDED
            case Pointwise() | Other() if State.SHARDED in states:
                local, state = spec.local(ranks), State.SHARDED
            case Pointwise() if State.PARTIAL in states:
                state = State.PARTIAL
        return local, state

    def _splits_columns(self, op: Op) -> bool:
        """Whether the projection ``op`` serves something that works on separate heads or columns.

        Not if a norm over its whole width or a router reads it: those need all columns.
        """
        splits = False
        pending = [(user, False) for user in self._users.get(op.name, ())]
        while pending:
            user, through = pending.pop()
            spec = user.spec
            if isinstance(spec, Pointwise):
                if spec.kernel == "router":
                    return False
                pending += [(u, True) for u in self._users.get(user.name, ())]
            elif isinstance(spec, Other):
                pending += [(u, through) for u in self._users.get(user.name, ())]
            elif isinstance(spec, Norm):
                gates_a_mixer = self._fed_by_mixer(user)
                if spec.groups == 1 and not (gates_a_mixer or self._serves_mixer_only(user)):
                    return False
                splits = True
            elif isinstance(spec, Experts):
                return False
            elif isinstance(spec, Gemm):
                splits |= through and not _is_narrow(op.spec)
            else:
                splits |= isinstance(spec, (Attention, BatchedGemm, Recurrent))
        return splits

    def _serves_mixer_only(self, op: Op) -> bool:
        """Whether what ``op`` yields goes into attention or a recurrence and no projection."""
        pending, found = list(self._users.get(op.name, ())), False
        while pending:
            user = pending.pop()
            if isinstance(user.spec, (Attention, Recurrent)):
                found = True
            elif isinstance(user.spec, (Pointwise, Norm)):
                pending += self._users.get(user.name, ())
            else:
                return False
        return found

    def _fed_by_mixer(self, op: Op) -> bool:
        """Whether attention or a recurrence is behind what ``op`` reads, no projection between."""
        by_name = {o.name: o for o in self._block.ops}
        pending = list(op.inputs)
        while pending:
            source = by_name.get(pending.pop())
            if source is None or isinstance(source.spec, Gemm):
                continue
            if isinstance(source.spec, (Attention, Recurrent)):
                return True
            pending += source.inputs
        return False

    def _spans_ranks(self, op: Op) -> bool:
        """A norm over one vector that the ranks share, unless a recurrence keeps it grouped."""
        spec = op.spec
        assert isinstance(spec, Norm)
        return spec.groups == 1 and self._serves_mixer_only(op)

    def _reduce(self, names: list[str]) -> None:
        """All-reduce the sum of partial values."""
        names = [n for n in names if self._states[n] is State.PARTIAL]
        if names:
            width = max(_width(self._spec(n)) for n in names)
            spec = Collective("all_reduce", width, self._ranks, dtype=self._dtype)
            self._insert("all_reduce", spec, names, "all_reduce")

    def _gather(self, op: Op) -> str:
        """All-gather what a norm over the whole width reads; the collective's name."""
        assert isinstance(op.spec, Norm)
        spec = Collective("all_gather", op.spec.width, self._ranks, dtype=self._dtype)
        return self._append("all_gather", spec, op.inputs)

    def _insert(self, base: str, spec: OpSpec, names: list[str], label: str) -> None:
        """Put a collective behind ``names``; who reads them later reads its result."""
        name = self._append(base, spec, names, label)
        self._states |= dict.fromkeys(names, State.REPLICATED)
        self._renamed |= dict.fromkeys(names, name)

    def _append(self, base: str, spec: OpSpec, names: Sequence[str], label: str = "") -> str:
        taken = sum(o.name == base or o.name.startswith(f"{base}.") for o in self._ops)
        name = f"{base}.{taken + 1}" if taken else base
        reads = tuple(dict.fromkeys(self._renamed.get(n, n) for n in names))
        self._ops.append(Op(name, spec, reads, "", label or base))
        return name

    def _spec(self, name: str) -> OpSpec:
        return next(op.spec for op in self._block.ops if op.name == name)


def _is_sum(op: Op) -> bool:
    """Whether ``op`` is linear in its inputs, so that partial sums may pass."""
    return isinstance(op.spec, Pointwise) and op.spec.kernel in {"elementwise", "gate"}


def _is_narrow(spec: OpSpec) -> bool:
    """So few columns that splitting them would cost more than it saves."""
    return isinstance(spec, Gemm) and (spec.n * 8 <= spec.k or spec.n < _FEW_COLUMNS)


def _width(spec: OpSpec) -> int:
    """Elements a token of an operator's result."""
    match spec:
        case Gemm():
            return round(spec.n * spec.row_scale)
        case Experts():
            return spec.hidden
        case Embedding():
            return spec.width
        case Pointwise():
            return round(spec.writes)
    raise TypeError(f"no width of a {type(spec).__name__}")
