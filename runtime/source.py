"""Requests as they come during a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from servesim.runtime.request import RequestSpec


class Source(Protocol):
    """Gives out requests in order of arrival; later ones may depend on earlier answers."""

    @property
    def total(self) -> int | None:
        """Requests there will be in all, if known."""

    @property
    def reactive(self) -> bool:
        """Whether a finished request can cause another."""

    def next_s(self) -> float | None:
        """Arrival of the next request, as far as known now; None if none is known."""

    def take(self) -> RequestSpec:
        """The next request; ``next_s`` must not be None."""

    def finished(self, spec: RequestSpec, now: float) -> None:
        """Learn that ``spec``, given out before, was answered, rejected or cancelled at ``now``."""


class OpenSource:
    """Requests that come whatever happens to those before."""

    reactive = False

    def __init__(self, requests: Iterable[RequestSpec], total: int | None = None) -> None:
        self._rest: Iterator[RequestSpec] = iter(requests)
        self._next = next(self._rest, None)
        self.total = total

    def next_s(self) -> float | None:
        """Arrival of the next request."""
        return None if self._next is None else self._next.arrival_s

    def take(self) -> RequestSpec:
        """The next request."""
        assert self._next is not None
        spec, self._next = self._next, next(self._rest, None)
        return spec

    def finished(self, spec: RequestSpec, now: float) -> None:
        """Nothing: nobody waits for the answer."""
