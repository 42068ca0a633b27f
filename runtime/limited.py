"""A client that keeps no more than so many requests under way."""

from __future__ import annotations

from dataclasses import replace

from servesim.runtime.request import RequestSpec
from servesim.runtime.source import OpenSource, Source


class LimitedSource:
    """Sends the requests of another source, but holds back what would be one too many.

    As in vLLM's benchmark client (``--max-concurrency``), a request that was held back counts as
    arriving when it is sent: its wait at the client is in no latency.
    """

    reactive = True

    def __init__(self, requests: OpenSource, max_concurrency: int) -> None:
        self.total = requests.total
        self._requests = requests
        self._free = max_concurrency
        self._freed_s = 0.0

    def next_s(self) -> float | None:
        """When the next request is sent; None until an answer makes room for it."""
        arrival_s = self._requests.next_s()
        return None if arrival_s is None or not self._free else max(arrival_s, self._freed_s)

    def take(self) -> RequestSpec:
        """The next request."""
        spec = self._requests.take()
        self._free -= 1
        return replace(spec, arrival_s=max(spec.arrival_s, self._freed_s))

    def finished(self, spec: RequestSpec, now: float) -> None:
        """Room for another."""
        self._freed_s = now
        self._free += 1


def limited(requests: OpenSource, max_concurrency: int | None) -> Source:
    """``requests``, no more than ``max_concurrency`` of them unfinished at any time."""
    return requests if max_concurrency is None else LimitedSource(requests, max_concurrency)
