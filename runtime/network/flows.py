"""Transfers under way: a fluid model in which flows share links max-min fairly.

Rates change only when a flow starts or ends, so the state between two such moments is linear in
time and exact. A flow's last byte arrives its path's latency after it was sent.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field

from servesim.errors import InputError
from servesim.runtime.network.fabric import Fabric, Path
from servesim.runtime.network.fairness import fair_rates


@dataclass(slots=True, eq=False)
class Flow:
    """One transfer.

    Attributes:
        size: bytes in all.
        left: bytes not sent yet.
        rate: bytes per second now.
    """

    path: Path
    size: float
    left: float
    rate: float = 0.0


@dataclass
class Network:
    """The flows over a fabric.

    Attributes:
        carried: bytes that each link has carried, by number.
    """

    fabric: Fabric
    carried: dict[int, float] = field(default_factory=dict)
    _flows: list[Flow] = field(default_factory=list)
    _added: dict[int, float] = field(default_factory=dict)  # capacity of links beside the fabric's
    _now: float = 0.0

    def add_link(self, bandwidth: float) -> int:
        """A link beside those of the fabric, for paths that cross it; returns its number."""
        number = len(self.fabric.capacity) + len(self._added)
        self._added[number] = bandwidth
        return number

    def start(self, now: float, start: str, end: str, size: float) -> Flow:
        """A flow of ``size`` bytes from node ``start`` to node ``end``.

        Raises:
            InputError: a negative size.
            UnsupportedError: no way leads there.
        """
        return self.start_along(now, self.fabric.path(start, end), size)

    def start_along(self, now: float, path: Path, size: float) -> Flow:
        """A flow of ``size`` bytes over the links of ``path``.

        Raises:
            InputError: a negative size.
        """
        if not size >= 0:
            raise InputError(f"a transfer must not be of {size} bytes")
        self.advance(now)
        flow = Flow(path, size, size if path.links else 0.0)
        self._flows.append(flow)
        self._share()
        return flow

    def cancel(self, now: float, flow: Flow) -> None:
        """Stop a flow; what it has sent was carried in vain."""
        self.advance(now)
        if flow in self._flows:
            self._flows.remove(flow)
            self._share()

    def next_sent_s(self) -> float:
        """When the next flow has sent its last byte, as things are; infinity without flows."""
        ends = (flow.left / flow.rate if flow.left else 0.0 for flow in self._flows)
        return self._now + min(ends, default=math.inf)

    def take_sent(self, now: float) -> list[Flow]:
        """The flows that have sent all by ``now``, in the order in which they started."""
        self.advance(now)
        instant = 4 * math.ulp(now)  # what is left for so long is rounding
        sent = [flow for flow in self._flows if flow.left <= flow.rate * instant]
        for flow in sent:
            self._carry(flow, flow.left)
            self._flows.remove(flow)
        if sent:
            self._share()
        return sent

    def carried_by_name(self) -> dict[str, float]:
        """Bytes that each link of the fabric has carried, ``from -> to``."""
        names = self.fabric.names
        carried = sorted(self.carried.items())
        return {names[link]: size for link, size in carried if link not in self._added}

    def share(self, path: Path, besides: Flow | None = None) -> float:
        """Bytes per second of one more flow if all had equal shares of the narrowest link.

        Args:
            besides: a flow that would be over by then.
        """
        flows = [flow.path.links for flow in self._flows if flow.left and flow is not besides]
        return min(
            self._capacity[link] / (1 + sum(link in links for links in flows))
            for link in path.links
        )

    def advance(self, now: float) -> None:
        """Let the bytes flow until ``now``."""
        seconds, self._now = now - self._now, max(now, self._now)
        if seconds > 0:
            for flow in self._flows:
                self._carry(flow, min(flow.left, flow.rate * seconds))

    @property
    def _capacity(self) -> Mapping[int, float]:
        return ChainMap(self._added, self.fabric.capacity) if self._added else self.fabric.capacity

    def _carry(self, flow: Flow, size: float) -> None:
        if size > 0:
            flow.left -= size
            for link in flow.path.links:
                self.carried[link] = self.carried.get(link, 0.0) + size

    def _share(self) -> None:
        """Give every flow its fair rate."""
        flows = [flow for flow in self._flows if flow.left]
        rates = fair_rates([flow.path.links for flow in flows], self._capacity)
        for flow, rate in zip(flows, rates, strict=True):
            flow.rate = rate
