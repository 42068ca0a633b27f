"""Which kernels to measure: those that operator graphs really run, over batches of many sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT, SEQUENCES, Op, OpSpec
from servesim.graph.opgraph import OpGraph
from servesim.graph.ops.gathered import GatheredKeys
from servesim.graph.work import AttentionWork, CollectiveWork, Work
from servesim.hardware.measure.naming import name_of

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_LARGE = (1024, 2048, 4096, 8192)
#: Shared tokens are multiples of it: whole blocks, whatever their size.
_SHARED = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """The batches an engine may form.

    Attributes:
        tokens: new tokens of a step (``max_num_batched_tokens``).
        sequences: sequences of a step (``max_num_seqs``).
        context: tokens of a sequence (``max_model_len``).
        weight_bytes: operators whose weights exceed this are left out.
    """

    tokens: int = 512
    sequences: int = 64
    context: int = 2048
    weight_bytes: float = 256e6

    @property
    def token_sizes(self) -> tuple[int, ...]:
        """Numbers of tokens to measure at."""
        return _upto(self.tokens)

    @property
    def sequence_sizes(self) -> tuple[int, ...]:
        """Numbers of sequences to measure at."""
        return _upto(self.sequences)

    @property
    def contexts(self) -> tuple[int, ...]:
        """Contexts to measure at: every factor of four."""
        sizes = [self.context - 1]
        while sizes[-1] >= 64 or len(sizes) < 2:
            sizes.append(sizes[-1] // 4)
        return tuple(reversed(sizes))


@dataclass(frozen=True)
class Group:
    """Kernels of one operator: they share its weights.

    Attributes:
        spec: the operator, in the sizes it has on one device.
        works: its work for each batch, by name.
    """

    spec: Any
    works: dict[str, Work]

    @property
    def family(self) -> str:
        """Kind of the operator, as ``--only`` takes it."""
        return str(self.spec.kind)


def plan(graphs: Iterable[OpGraph], limits: Limits, only: Collection[str] = ()) -> list[Group]:
    """The distinct kernels of ``graphs``, a group an operator; kinds take turns.

    Collectives need several devices and are not among them. ``only``: kinds of operator to keep;
    all without any.
    """
    groups: dict[Any, dict[str, Work]] = {}
    taken: set[str] = set()
    for graph in graphs:
        for op, _ in graph.weighted_ops():
            if only and op.kind not in only:
                continue
            works = groups.setdefault(_bare(op.spec), {})
            for work in _works(op, limits):
                name = name_of(work)
                if name not in taken:
                    taken.add(name)
                    works[name] = work
    by_kind: dict[str, list[Group]] = {}
    for spec, works in groups.items():
        if works:
            by_kind.setdefault(spec.kind, []).append(Group(spec, works))
    turns = zip_longest(*by_kind.values())
    return [group for turn in turns for group in turn if group is not None]


def thinned(groups: Sequence[Group]) -> list[Group]:
    """Every second kernel of each group, the last one always kept."""
    found = []
    for group in groups:
        names = list(group.works)
        kept = sorted({*range(0, len(names), 2), len(names) - 1})
        found.append(replace(group, works={names[i]: group.works[names[i]] for i in kept}))
    return found


def too_heavy(op: Op, limits: Limits) -> bool:
    """Whether its weights exceed the limit; look-ups are cut to a part of their table."""
    return _bare(op.spec).weight_bytes > limits.weight_bytes and op.kind != "embedding"


def _bare(spec: OpSpec) -> OpSpec:
    """``spec`` without what does not change its kernel (names of merged layers, tying)."""
    plain: dict[str, Any] = {"parts": (), "tied": False, "source": ""}
    given = {key: value for key, value in plain.items() if hasattr(spec, key)}
    return replace(spec, **given) if given else spec  # type: ignore[type-var]


def _works(op: Op, limits: Limits) -> Iterator[Work]:
    if too_heavy(op, limits):
        return
    for batch in _batches(op, limits):
        if not op.runs(batch):
            continue
        work = op.work(batch)
        if not isinstance(work, CollectiveWork):
            yield replace(work, label="")  # type: ignore[type-var]


def _batches(op: Op, limits: Limits) -> Iterator[BatchShape]:
    if op.spec.depends == SEQUENCES:
        yield from (BatchShape.of([(1, 1)] * n) for n in limits.sequence_sizes)
    elif op.spec.depends != CONTEXT:
        yield from map(BatchShape.of_tokens, limits.token_sizes)
    elif isinstance(op.spec, GatheredKeys):
        yield from map(BatchShape.of_tokens, _upto(limits.sequences * limits.context))
    elif isinstance(op.work(BatchShape.of([(1, 8), (8, 8)])), AttentionWork):
        yield from _attention_batches(limits)
    else:
        yield from (BatchShape.of([(1, 8)] * n) for n in limits.sequence_sizes)
        yield from map(BatchShape.of_tokens, limits.token_sizes)
        half = limits.tokens // 2
        yield BatchShape.of([(half // 4, 0)] * 4)
        yield BatchShape.of([(half, 0), *[(1, 8)] * 8])


def _attention_batches(limits: Limits) -> Iterator[BatchShape]:
    """Decodes alone, prefill chunks on short and long contexts, and both together."""
    draw = np.random.default_rng(0)
    counts = [n for n in limits.sequence_sizes if n & (n - 1) == 0]
    for count in counts:
        for context in limits.contexts:
            yield BatchShape.of([(1, context)] * count)
    yield from _shared_batches(limits, counts[1::2])
    for count in counts[1:]:  # unequal contexts
        spread = draw.integers(1, limits.context - 1, count)
        yield BatchShape.of([(1, int(context)) for context in spread])
    chunks = [n for n in limits.token_sizes if n >= 8 and n & (n - 1) == 0]
    for chunk in chunks:
        for context in (0, *limits.contexts):
            if chunk + context <= limits.context:
                yield BatchShape.of([(chunk, context)])
    yield BatchShape.of([(limits.tokens // 4, 0)] * 4)
    yield BatchShape.of([(limits.tokens // 16, limits.contexts[-2])] * 8)
    for chunk in chunks[1::2]:
        for count in counts[1::2]:
            spread = draw.integers(1, limits.context - 1, count)
            decodes = [(1, int(context)) for context in spread]
            yield BatchShape.of([(chunk, 0), *decodes])


def _shared_batches(limits: Limits, counts: Sequence[int]) -> Iterator[BatchShape]:
    """Decodes that share half of their blocks, or all that are full wherever a decode ends."""
    for count in counts:
        for context in limits.contexts[-2:]:
            apart = BatchShape.of([(1, context)] * count)
            most = (context - _SHARED // 2) // _SHARED  # decodes end up to half a block before
            for blocks in sorted({min(most, context // (2 * _SHARED)), most} - {0, -1}):
                shared = blocks * _SHARED
                yield replace(apart, shared_context=shared, repeated_context=(count - 1) * shared)


def _upto(most: int) -> tuple[int, ...]:
    return tuple(sorted({*(n for n in (*_SIZES, *_LARGE) if n < most), most}))
