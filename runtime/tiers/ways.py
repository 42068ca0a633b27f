"""How KV gets to a tier and back: over a link of its own, or over a network with other traffic."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from servesim.runtime.network.fabric import Path
from servesim.runtime.network.flows import Flow
from servesim.runtime.transfers import Transfers

#: Told the time when all of a transfer has arrived.
Arrived = Callable[[float], None]


class Way(Protocol):
    """One direction between a tier and an engine, or two tiers; transfers queue up on it."""

    def transfer(self, size: float, now: float, then: Arrived) -> float:
        """Send ``size`` bytes from ``now`` on.

        Returns:
            When the last has arrived; infinity if that depends on what else is sent meanwhile, in
            which case ``then`` is called when it has.
        """

    def expected_s(self, size: float, now: float) -> float:
        """Seconds that ``transfer`` would take now, if traffic stayed as it is."""


class Link:
    """A link that nobody else uses."""

    def __init__(self, bandwidth: float, latency_s: float) -> None:
        self._bandwidth = bandwidth
        self._latency_s = latency_s
        self._free_s = 0.0
        self.carried_bytes = 0.0

    def transfer(self, size: float, now: float, then: Arrived) -> float:
        """As ``Way.transfer``; the time is always known."""
        self._free_s = max(self._free_s, now) + size / self._bandwidth
        self.carried_bytes += size
        return self._free_s + self._latency_s

    def expected_s(self, size: float, now: float) -> float:
        """As ``Way.expected_s``."""
        return max(self._free_s - now, 0.0) + size / self._bandwidth + self._latency_s


class FlowQueue:
    """Transfers one behind the other, each a flow that shares its links with all other flows.

    Attributes:
        asked_bytes: of all transfers so far.
        carried_bytes: of those that have been sent.
    """

    def __init__(self, transfers: Transfers, path: Path) -> None:
        self.asked_bytes = self.carried_bytes = 0.0
        self._transfers = transfers
        self._path = path
        self._waiting: deque[tuple[float, Arrived]] = deque()
        self._flow: Flow | None = None

    @property
    def left_bytes(self) -> float:
        """Still to be sent."""
        under_way = self._flow.left if self._flow is not None else 0.0
        return under_way + sum(size for size, _ in self._waiting)

    def transfer(self, size: float, now: float, then: Arrived) -> float:
        """As ``Way.transfer``; the time is never known."""
        self.asked_bytes += size
        self._waiting.append((size, then))
        if self._flow is None:
            self._next(now)
        return math.inf

    def expected_s(self, size: float, now: float) -> float:
        """As ``Way.expected_s``, with an equal share of the narrowest link."""
        network = self._transfers.network
        network.advance(now)
        rate = network.share(self._path, besides=self._flow)
        return (self.left_bytes + size) / rate + self._path.latency_s

    def _next(self, now: float) -> None:
        size, then = self._waiting.popleft()
        self._flow = self._transfers.send_along(now, self._path, size, then, self._sent)

    def _sent(self, now: float) -> None:
        assert self._flow is not None
        self.carried_bytes += self._flow.size
        self._flow = None
        if self._waiting:
            self._next(now)
