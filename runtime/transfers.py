"""Transfers as events: sends over the network, and what happens when the last byte arrives."""

from __future__ import annotations

import math
from functools import partial

from servesim.runtime.events import Action, EventQueue, Order
from servesim.runtime.network.fabric import Path
from servesim.runtime.network.flows import Flow, Network


class Transfers:
    """Runs a network inside the event loop."""

    def __init__(self, network: Network, events: EventQueue) -> None:
        self.network = network
        self._events = events
        self._then: dict[Flow, Action] = {}
        self._when_sent: dict[Flow, Action] = {}
        self._version = 0  # of the rates; events announced under older ones are void

    def send(self, now: float, ends: tuple[str, str], size: float, then: Action) -> Flow:
        """Send ``size`` bytes between two nodes; ``then`` is called when all have arrived.

        Raises:
            UnsupportedError: no way leads there.
        """
        return self.send_along(now, self.network.fabric.path(*ends), size, then)

    def send_along(
        self, now: float, path: Path, size: float, then: Action, sent: Action | None = None
    ) -> Flow:
        """Send ``size`` bytes over the links of ``path``.

        Args:
            then: called when all have arrived.
            sent: called when the last has left, the path's latency before.
        """
        flow = self.network.start_along(now, path, size)
        self._then[flow] = then
        if sent is not None:
            self._when_sent[flow] = sent
        self._announce()
        return flow

    def cancel(self, now: float, flow: Flow) -> None:
        """Stop a transfer; nothing will be called."""
        self._when_sent.pop(flow, None)
        if self._then.pop(flow, None) is not None:
            self.network.cancel(now, flow)
            self._announce()

    def _announce(self) -> None:
        """Note when the next flow ends as rates are now."""
        self._version += 1
        version, end = self._version, self.network.next_sent_s()
        if end < math.inf:
            self._events.push(end, Order.TRANSFER, partial(self._sent, version))

    def _sent(self, version: int, now: float) -> None:
        if version != self._version:
            return
        for flow in self.network.take_sent(now):
            arrives = now + flow.path.latency_s
            self._events.push(arrives, Order.TRANSFER, partial(self._arrived, flow))
            if (sent := self._when_sent.pop(flow, None)) is not None:
                sent(now)
        self._announce()

    def _arrived(self, flow: Flow, now: float) -> None:
        if (then := self._then.pop(flow, None)) is not None:
            then(now)
