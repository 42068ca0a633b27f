"""A placement compiled into the one number the engine asks for: seconds of a step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT, GROUP, SEQUENCES, TOKENS
from servesim.hardware.cost import GRAPH_GAP_S, STREAM_GAP_S, Source
from servesim.hardware.placement import Placement
from servesim.runtime.op_groups import Group, clips, decode_work, grouped

SOURCES = tuple(Source)
_INDEX = {source: i for i, source in enumerate(SOURCES)}

GAPS = "gaps between kernels"

#: Decodes that share nothing, and as many that share all of their contexts.
_APART = BatchShape((), 64, 64 * 4096, 4096)
_ALIKE = replace(_APART, shared_context=4096, repeated_context=63 * 4096)

#: Seconds by source, in the order of ``SOURCES``.
Seconds = list[float]


@dataclass(frozen=True, slots=True)
class OpCost:
    """What an operator takes of a step.

    Attributes:
        label: serving name of the operator.
        device: name of the device that runs it.
        count: times it runs in the step.
        seconds: of all these runs together.
        source: where the number comes from.
    """

    label: str
    device: str
    count: int
    seconds: float
    source: Source


@dataclass
class CompiledStepModel:
    """Seconds of a step: the sum over all operators of a placement.

    Operators that see only the number of tokens, or of sequences, are summed once for each number
    met; equal attention and recurrent operators are costed once and multiplied. A step thus costs
    as much to simulate whatever the number of layers. Kernels are taken to run one after another,
    as they do on one stream.

    The answers are pure; beside them ``spent`` adds up the seconds answered, by source.

    Attributes:
        needs_contexts: whether an operator clips every context (windows, chunks).
        capture_sizes: token counts that steps are padded to (CUDA graphs); larger steps are not.
        spent: seconds of all answers so far, in the order of ``SOURCES``.
    """

    placement: Placement
    capture_sizes: tuple[int, ...] = ()
    needs_contexts: bool = field(init=False)
    spent: Seconds = field(init=False, default_factory=lambda: [0.0] * len(SOURCES))

    @classmethod
    def compile(
        cls, placement: Placement, *, capture_sizes: Sequence[int] = ()
    ) -> CompiledStepModel:
        """Group the operators of ``placement``."""
        return cls(placement, tuple(sorted(capture_sizes)))

    def __post_init__(self) -> None:
        groups = list(grouped(self.placement))
        self._tokens = [g for g in groups if g.op.spec.depends == TOKENS]
        self._sequences = [g for g in groups if g.op.spec.depends == SEQUENCES]
        self._pooled = [g for g in groups if g.op.spec.depends == GROUP]
        self._replicas = max((getattr(g.op.spec, "replicas", 1) for g in self._pooled), default=1)
        self._context = [g for g in groups if g.op.spec.depends == CONTEXT]
        self.needs_contexts = any(clips(g.op) for g in self._context)
        self._kernels_alone = sum(g.count for g in groups if g.alone)
        self._by_tokens: dict[int, Seconds] = {}
        self._by_group: dict[int, Seconds] = {}
        self._by_sequences: dict[int, Seconds] = {}
        self._by_decodes: dict[int, tuple[float, Seconds]] = {}
        self._decode = [(g, decode_work(g.op)) for g in self._context]

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``."""
        tokens = max(batch.tokens, batch.padded_tokens)
        if not tokens:
            return 0.0
        parts = [0.0] * len(SOURCES)
        _add(parts, self._token_seconds(tokens))
        if self._pooled:
            _add(parts, self._group_seconds(self._group_tokens(batch)))
        if batch.sequences:
            _add(parts, self._sequence_seconds(batch.sequences))
        for group in self._context:
            cost = group.of(batch)
            if cost is not None:
                parts[_INDEX[cost.source]] += group.count * cost.seconds
        for transfer in self.placement.transfers:
            cost = transfer.cost(batch)
            parts[_INDEX[cost.source]] += transfer.count * cost.seconds
        _add(self.spent, parts)
        return sum(parts)

    @cached_property
    def counts_sharing(self) -> bool:
        """Whether decodes that hold the same KV blocks take less time for it."""
        groups = [g for g in self._context if not clips(g.op)]
        apart, alike = (_total(groups, batch) for batch in (_APART, _ALIKE))
        return sum(alike) < sum(apart)

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only.

        Raises:
            ValueError: a context exceeds a window, which takes all contexts to cost.
        """
        if not decodes:
            return 0.0
        if self.placement.transfers:
            return self.seconds(BatchShape((), decodes, context, context_max))
        known = self._by_decodes.get(decodes)
        if known is None:
            known = self._by_decodes[decodes] = self._fixed_seconds(decodes)
        total, parts = known
        spent = self.spent
        for i, seconds in enumerate(parts):
            spent[i] += seconds
        batch = None
        for group, work in self._decode:
            if work is not None:
                cost = group.cost(work(decodes, context + decodes, context_max + 1))
            else:
                batch = batch or BatchShape((), decodes, context, context_max)
                found = group.of(batch)
                if found is None:
                    continue
                cost = found
            seconds = group.count * cost.seconds
            spent[_INDEX[cost.source]] += seconds
            total += seconds
        return total

    def cost_breakdown(self, batch: BatchShape) -> tuple[OpCost, ...]:
        """What each operator takes of a step of ``batch``; the seconds add up to ``seconds``."""
        seen, rows = self.seen(batch), []
        for group in (*self._tokens, *self._pooled, *self._sequences, *self._context):
            cost = group.of(seen.get(group.op.spec.depends, batch))
            if cost is not None:
                seconds = group.count * cost.seconds
                rows.append(OpCost(group.label, group.device, group.count, seconds, cost.source))
        gaps = self._gap_seconds(seen[TOKENS].tokens) if batch.tokens else 0.0
        if gaps:
            name, count = self.placement.default, self._kernels_alone
            rows.append(OpCost(GAPS, name, count, gaps, Source.ANALYTICAL))
        for transfer in self.placement.transfers:
            cost, ends = transfer.cost(batch), "->".join(transfer.ends)
            seconds = transfer.count * cost.seconds
            rows.append(OpCost("transfer", ends, transfer.count, seconds, cost.source))
        return tuple(rows)

    def seen(self, batch: BatchShape) -> dict[str, BatchShape]:
        """``batch`` as operators see it that look at its tokens, or at its group's: padded."""
        padded = BatchShape.of_tokens(self._padded(max(batch.tokens, batch.padded_tokens)))
        pooled = BatchShape(padded.prefills, group_tokens=self._group_tokens(batch))
        return {TOKENS: padded, GROUP: pooled}

    def reset(self) -> None:
        """Forget the seconds answered so far."""
        self.spent[:] = [0.0] * len(SOURCES)

    def source_seconds(self) -> dict[Source, float]:
        """Seconds of all answers so far by source."""
        return dict(zip(SOURCES, self.spent, strict=True))

    def _padded(self, tokens: int) -> int:
        """Tokens a step is padded to."""
        at = bisect_left(self.capture_sizes, tokens)
        return self.capture_sizes[at] if at < len(self.capture_sizes) else tokens

    def _token_seconds(self, tokens: int) -> Seconds:
        known = self._by_tokens.get(tokens)
        if known is None:
            padded = self._padded(tokens)
            known = _total(self._tokens, BatchShape.of_tokens(padded))
            known[_INDEX[Source.ANALYTICAL]] += self._gap_seconds(padded)
            self._by_tokens[tokens] = known
        return known

    def _gap_seconds(self, padded: int) -> float:
        """Gaps between the kernels of a step padded to so many tokens."""
        captured = bool(self.capture_sizes) and padded <= self.capture_sizes[-1]
        return self._kernels_alone * (GRAPH_GAP_S if captured else STREAM_GAP_S)

    def _group_tokens(self, batch: BatchShape) -> int:
        """Tokens of all ranks that share experts; without a group, of as many equal ranks."""
        tokens = max(batch.tokens, batch.padded_tokens)
        padded = self._padded(tokens)
        if not batch.group_tokens:
            return padded * self._replicas
        return batch.group_tokens * padded // tokens

    def _group_seconds(self, tokens: int) -> Seconds:
        known = self._by_group.get(tokens)
        if known is None:
            batch = BatchShape(((1, 0),), group_tokens=tokens)
            known = self._by_group[tokens] = _total(self._pooled, batch)
        return known

    def _sequence_seconds(self, sequences: int) -> Seconds:
        known = self._by_sequences.get(sequences)
        if known is None:
            batch = BatchShape((), sequences, sequences, 1)
            known = self._by_sequences[sequences] = _total(self._sequences, batch)
        return known

    def _fixed_seconds(self, decodes: int) -> tuple[float, Seconds]:
        """What a step of decodes takes whatever their contexts."""
        parts = list(self._token_seconds(decodes))
        if self._pooled:
            _add(parts, self._group_seconds(self._group_tokens(BatchShape((), decodes))))
        _add(parts, self._sequence_seconds(decodes))
        return sum(parts), parts


def _total(groups: Iterable[Group], batch: BatchShape) -> Seconds:
    parts = [0.0] * len(SOURCES)
    for group in groups:
        cost = group.of(batch)
        if cost is not None:
            parts[_INDEX[cost.source]] += group.count * cost.seconds
    return parts


def _add(to: Seconds, parts: Seconds) -> None:
    for i, seconds in enumerate(parts):
        to[i] += seconds
