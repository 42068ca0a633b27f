"""Who sends the requests of a run: when they are with the engines, and when answers are back."""

from __future__ import annotations

import math
from dataclasses import replace

from servesim.errors import UnsupportedError
from servesim.runtime.frontend import Desk, FrontEnd, Outlet
from servesim.runtime.request import RequestSpec
from servesim.runtime.source import Source


class Clients:
    """The requests of a source as they come through the server, if there is one.

    Args:
        cancel_after_s: after which clients give up whose requests do not say otherwise.
        patient: clients may not give up.

    Attributes:
        served: whether there is a server.
        response_s: from the end of a step until its tokens are with the clients.
    """

    def __init__(
        self,
        source: Source,
        frontend: FrontEnd | None,
        cancel_after_s: float | None,
        *,
        patient: bool,
    ) -> None:
        """Raises:
        UnsupportedError: clients give up that may not.
        """
        self._source = source
        self._frontend = frontend
        self._desk = Desk(frontend) if frontend is not None else None
        self.served = frontend is not None
        self.response_s = frontend.response_s if frontend is not None else 0.0
        self._cancel_after_s = cancel_after_s
        self._patient = patient
        self._require_patience(cancel_after_s)

    @property
    def total(self) -> int | None:
        """Requests there will be in all, if known."""
        return self._source.total

    @property
    def reactive(self) -> bool:
        """Whether a request can get to an engine that no arrival announces."""
        return self._source.reactive or self.served

    def next_s(self) -> float:
        """When the next request comes, as far as known now; infinity if none is known."""
        time = self._source.next_s()
        return math.inf if time is None else time

    def take(self) -> tuple[RequestSpec, float]:
        """The next request, and when it is through the server.

        Raises:
            UnsupportedError: its client gives up and may not.
        """
        spec = self._source.take()
        if self._cancel_after_s is not None and spec.cancel_after_s is None:
            spec = replace(spec, cancel_after_s=self._cancel_after_s)
        self._require_patience(spec.cancel_after_s)
        if self._desk is None:
            return spec, spec.arrival_s
        return spec, self._desk.through(spec.arrival_s, spec.prompt_tokens)

    def outlet(self, engines: int) -> Outlet:
        """What hands out the answers of one of so many engines."""
        return Outlet() if self._frontend is None else Outlet.of(self._frontend, engines)

    def answer(self, spec: RequestSpec, now: float) -> None:
        """Tell its client that the engines are done with ``spec``, one way or another."""
        self._source.finished(spec, now + self.response_s)

    def _require_patience(self, cancel_after_s: float | None) -> None:
        if self._patient and cancel_after_s is not None:
            raise UnsupportedError(
                "cancel_after_s: not modelled where instances have roles (prefill, decode, encode)"
            )
