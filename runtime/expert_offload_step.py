"""How long a step takes of whose experts the device holds only some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.expert_cache import Floats, Misses
from servesim.graph.op import SEQUENCES, TOKENS
from servesim.graph.ops.experts import Experts, PooledExperts
from servesim.runtime.energy.use import HOST_READS
from servesim.runtime.expert_fetching import CachedExperts, ExpertLayer, Fetching
from servesim.runtime.waiting_step import WaitingStepModel


@dataclass(frozen=True, slots=True)
class _Totals:
    """Of all layers of a step, for one kind of batch.

    Attributes:
        touched, missed: experts.
        copied_bytes: of the missed.
        on_demand: seconds of waiting for copies that start when the router has chosen.
        late: the same, for experts that were not predicted.
        link: seconds of all copies when the next layer is predicted.
        hosted: seconds of waiting for the host's results.
        sent_bytes: of activations to the host and back.
    """

    touched: float = 0.0
    missed: float = 0.0
    copied_bytes: float = 0.0
    on_demand: float = 0.0
    late: float = 0.0
    link: float = 0.0
    hosted: float = 0.0
    sent_bytes: float = 0.0


@dataclass(slots=True)
class Fetched:
    """Experts in the steps of all answers so far.

    Attributes:
        touched: that tokens went to, on the device or not.
        missed: of them, those that were not on it.
        link_bytes: over the link of one device.
    """

    touched: float = 0.0
    missed: float = 0.0
    link_bytes: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the experts touched that were on the device; nan before any was."""
        return 1.0 - self.missed / self.touched if self.touched else float("nan")

    def reset(self) -> None:
        """Forget them."""
        self.touched = self.missed = self.link_bytes = 0.0


@dataclass(frozen=True)
class ExpertOffloadStepModel(WaitingStepModel):
    """A step that finds some of the experts it needs on the device, and fetches the others.

    Of a layer's ``touched`` experts, x are missed. The device computes those it has, e seconds
    each, E for all, while copies of t seconds each follow each other over the link; each missed
    expert is computed once it is there. So the layer waits max(x·t + e, t + x·e) - E, if that is
    positive. Computed by the host, they take their activations' way there and back and the host's
    time, beside what the device still has to do. x is the expected number where any is missed.

    With the next layer predicted, its copies have the time between two routers, and only those
    not predicted wait for theirs. A step then also lasts as long as all its copies, behind each
    other from the first layer's (which nothing predicts) on.

    Attributes:
        experts: of each block.
        span: layers from the first with experts to the last, as a share of all.
        totals: of all answers so far.
    """

    LABEL: ClassVar[str] = HOST_READS
    experts: tuple[CachedExperts, ...]
    fetching: Fetching
    span: float
    totals: Fetched = field(default_factory=Fetched, compare=False)
    _known: dict[tuple[int, int, int], _Totals] = field(
        default_factory=dict, repr=False, compare=False
    )
    _outside: dict[tuple[int, int], float] = field(default_factory=dict, repr=False, compare=False)

    def waits(self, batch: BatchShape, computing: float) -> float:
        """Seconds that a step waits for experts; negative where the host spares the device some."""
        return self._choice(batch, computing)[0]

    def fetched(self, batch: BatchShape) -> tuple[float, float]:
        """Seconds of waiting and bytes over the link in a step of ``batch``."""
        return self._choice(batch, self.computing.seconds(batch))

    def reset(self) -> None:
        """Forget what was answered so far."""
        super().reset()
        self.totals.reset()

    def _joined(self, batch: BatchShape, computing: float) -> float:
        waits, moved = self._choice(batch, computing)
        known, totals = self._of(batch), self.totals
        totals.touched += known.touched
        totals.missed += known.missed
        totals.link_bytes += moved
        self.waited[0] += waits
        return computing + waits

    def _choice(self, batch: BatchShape, computing: float) -> tuple[float, float]:
        """Seconds of waiting and bytes over the link, of the faster way where there are two."""
        known, ways = self._of(batch), []
        if self.fetching.stream:
            ways.append(self._streamed(known, batch, computing))
        if self.fetching.host is not None:
            ways.append((known.hosted, known.sent_bytes))
        return min(ways)

    def _streamed(self, known: _Totals, batch: BatchShape, computing: float) -> tuple[float, float]:
        accuracy = self.fetching.ahead
        if accuracy is None:
            return known.on_demand, known.copied_bytes
        first = self._first
        hidden = self.span * (computing - self._outside_layers(batch))
        rest = max((1.0 - first) * known.late, (1.0 - first) * known.link - hidden)
        copies = first + (1.0 - first) * (2.0 - accuracy)
        return first * known.on_demand + rest, copies * known.copied_bytes

    @cached_property
    def _first(self) -> float:
        """The first layer's share of all that have experts."""
        return 1.0 / sum(float(one.cache.layers.sum()) for one in self.experts)

    def _of(self, batch: BatchShape) -> _Totals:
        key = (batch.tokens, batch.padded_tokens, batch.group_tokens)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._totals(batch)
        return found

    def _totals(self, batch: BatchShape) -> _Totals:
        if not max(batch.tokens, batch.padded_tokens):
            return _Totals()
        parts = [self._block(one, batch) for one in self.experts]
        names = _Totals.__slots__
        return _Totals(*(fsum(getattr(part, name) for part in parts) for name in names))

    def _block(self, one: CachedExperts, batch: BatchShape) -> _Totals:
        """Of the layers of one block."""
        fetching, layers = self.fetching, one.cache.layers
        tokens = _tokens(one.spec, batch)
        misses = one.cache.misses(tokens)
        layer = self._layer(one, batch)
        late = misses if fetching.ahead is None else one.cache.misses(tokens, 1.0 - fetching.ahead)
        missed = _over(layers, misses, lambda found: found.missed)
        copies = missed + _over(layers, late, lambda found: found.missed)
        return _Totals(
            touched=_over(layers, misses, lambda found: found.touched),
            missed=missed,
            copied_bytes=missed * one.expert_bytes,
            on_demand=_over(layers, misses, layer.copied),
            late=_over(layers, late, layer.copied),
            link=fetching.copy_seconds(copies, one.expert_bytes),
            hosted=_over(layers, misses, layer.hosted) if fetching.host else 0.0,
            sent_bytes=_over(layers, misses, layer.sent) if fetching.host else 0.0,
        )

    def _layer(self, one: CachedExperts, batch: BatchShape) -> ExpertLayer:
        placement = self.computing.placement
        work = one.spec.work(self.computing.seen(batch)[one.spec.depends], one.label)
        device = placement.cost_model(placement.default)
        return ExpertLayer(work, device, self.fetching, one.expert_bytes)

    def _outside_layers(self, batch: BatchShape) -> float:
        """Seconds of what no layer holds: embedding, LM head, sampling."""
        key = (max(batch.tokens, batch.padded_tokens), batch.sequences)
        found = self._outside.get(key)
        if found is None:
            placement, seen = self.computing.placement, self.computing.seen(batch)
            found = self._outside[key] = sum(
                block.count * placement.cost(placement.default, op.work(shape)).seconds
                for block in placement.graph.blocks
                if not block.layers
                for op in block.ops
                if op.runs(shape := batch if op.spec.depends == SEQUENCES else seen[TOKENS])
            )
        return found


def _tokens(spec: Experts, batch: BatchShape) -> int:
    """Tokens that choose among the experts; those that pad a step choose none."""
    if isinstance(spec, PooledExperts):
        return batch.group_tokens or batch.tokens * spec.replicas
    return batch.tokens


def _over(layers: Floats, misses: Sequence[Misses], of: Callable[[Misses], float]) -> float:
    """A sum over layers, so many of each kind."""
    return fsum(count * of(one) for count, one in zip(layers, misses, strict=True))
