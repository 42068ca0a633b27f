"""Experts that a device holds only some of, and what it takes to come by the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.expert_cache import ExpertCache, Misses
from servesim.graph.ops.experts import Experts
from servesim.graph.work import MoeWork
from servesim.hardware.cost import CostModel
from servesim.hardware.link import Link


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


@dataclass(frozen=True)
class ExpertLayer:
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
