"""How long a step takes of whose experts the device holds only some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import fsum
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.expert_cache import ExpertCache, Floats, Misses
from servesim.graph.op import SEQUENCES, TOKENS
from servesim.graph.ops.experts import Experts, PooledExperts
from servesim.graph.work import MoeWork
from servesim.hardware.cost import CostModel
from servesim.hardware.link import Link
from servesim.runtime.energy.use import HOST_READS
from servesim.runtime.waiting_step import WaitingStepModel


@dataclass(frozen=True)
class CachedExperts:
    """The experts of the layers of a block, some of each on the device.

    Attributes:
        spec, label: as the device would run them, had it all of them.
        expert_bytes: of one expert.
    """

    spec: Experts
    label: str
    cache: ExpertCache
    expert_bytes: float


@dataclass(frozen=True)
class Fetching:
    """How experts that the device misses are come by.

    Attributes:
        link: to where all experts lie.
        stream: whether they may be copied to the device.
        host: what computes them where they lie; None if nothing does.
        sharers: devices whose experts the host computes at the same time.
        ahead: chance that a layer's expert is fetched while the layer before it runs; None if no
            layer is predicted. Every wrong prediction is fetched, too.
    """

    link: Link
    stream: bool = True
    host: CostModel | None = None
    sharers: int = 1
    ahead: float | None = None

    def copy_seconds(self, experts: float, size: float) -> float:
        """Seconds to copy so many experts of ``size`` bytes, one after another."""
        return experts * (self.link.latency + size / self.link.bandwidth)


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
        totals: experts touched, missed, and bytes over the link, of all answers so far.
    """

    LABEL: ClassVar[str] = HOST_READS
    experts: tuple[CachedExperts, ...]
    fetching: Fetching
    span: float
    totals: list[float] = field(default_factory=lambda: [0.0] * 3, compare=False)
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

    @property
    def hit_rate(self) -> float:
        """Share of the experts touched that were on the device; nan before any was."""
        touched, missed, _ = self.totals
        return 1.0 - missed / touched if touched else float("nan")

    def reset(self) -> None:
        """Forget what was answered so far."""
        super().reset()
        self.totals[:] = [0.0] * 3

    def _joined(self, batch: BatchShape, computing: float) -> float:
        waits, moved = self._choice(batch, computing)
        known = self._of(batch)
        for i, more in enumerate((known.touched, known.missed, moved)):
            self.totals[i] += more
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

    def _layer(self, one: CachedExperts, batch: BatchShape) -> _Layer:
        placement = self.computing.placement
        work = one.spec.work(self.computing.seen(batch)[one.spec.depends], one.label)
        device = placement.cost_model(placement.default)
        return _Layer(work, device, self.fetching, one.expert_bytes)

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


@dataclass(frozen=True)
class _Layer:
    """One layer's experts in a step of which the device does ``work`` if it holds them all."""

    work: MoeWork
    device: CostModel
    fetching: Fetching
    expert_bytes: float

    def copied(self, misses: Misses) -> float:
        """Expected seconds of waiting for copies."""
        if not misses.any:
            return 0.0
        whole = self.device.cost(self.work).seconds
        each, x = whole / self.work.touched, misses.missed / misses.any
        copy = self.fetching.copy_seconds(1.0, self.expert_bytes)
        return misses.any * max(x * copy + each - whole, copy + x * each - whole, 0.0)

    def hosted(self, misses: Misses) -> float:
        """Expected seconds that the layer takes beyond those of a device with all experts."""
        host = self.fetching.host
        if not misses.any or host is None:
            return 0.0
        away = replace(
            self.work,
            touched=min(misses.missed / misses.any, self.work.touched),
            pairs=min(misses.pairs / misses.any, self.work.pairs),
        )
        here = replace(
            self.work,
            touched=self.work.touched - away.touched,
            pairs=self.work.pairs - away.pairs,
        )
        whole = self.device.cost(self.work).seconds
        left = self.device.cost(here).seconds if here.touched > 0 and here.pairs > 0 else 0.0
        link, sent = self.fetching.link, self.sent(misses) / misses.any
        there = 2.0 * link.latency + sent / link.bandwidth
        there += self.fetching.sharers * host.cost(away).seconds
        return misses.any * (max(left, there) - whole)

    def sent(self, misses: Misses) -> float:
        """Expected bytes of activations to the host and back."""
        rows = min(misses.pairs, misses.any * self.work.tokens)
        return 2.0 * rows * self.work.hidden * bytes_per_element(self.work.dtype)


def _tokens(spec: Experts, batch: BatchShape) -> int:
    """Tokens that choose among the experts; those that pad a step choose none."""
    if isinstance(spec, PooledExperts):
        return batch.group_tokens or batch.tokens * spec.replicas
    return batch.tokens


def _over(layers: Floats, misses: Sequence[Misses], of: Callable[[Misses], float]) -> float:
    """A sum over layers, so many of each kind."""
    return fsum(count * of(one) for count, one in zip(layers, misses, strict=True))
