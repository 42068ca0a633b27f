"""Routers, one file each: which instance a request goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from servesim.registry import Registry
from servesim.runtime.request import RequestSpec


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a router may know of an instance.

    Attributes:
        running, waiting: requests in the running batch, and not (or no longer) in it.
        free_blocks, kv_blocks: KV blocks that can be taken, and all.
        model: what it serves, if it says so.
        cached_tokens: leading prompt tokens of the request that its KV cache holds now.
        ttft_s, tpot_s: estimates for the request, were it sent there: the time to compute all
            prompts before it and its own, and a decode step together with all that are there.
    """

    name: str
    running: int
    waiting: int
    free_blocks: int
    kv_blocks: int
    model: str | None = None
    cached_tokens: int = 0
    ttft_s: float = 0.0
    tpot_s: float = 0.0

    @property
    def load(self) -> int:
        """Requests running and waiting."""
        return self.running + self.waiting


class Router(Protocol):
    """Chooses an instance for each request.

    A router that looks at ``cached_tokens``, ``ttft_s`` or ``tpot_s`` names them in a class
    attribute ``needs``; for others they are not worked out and are zero.
    """

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """Index of the instance that takes ``spec``; all of them serve and could take it."""


ROUTERS: Registry[Router] = Registry("router", "servesim.runtime.routers")
