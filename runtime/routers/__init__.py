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
    """

    name: str
    running: int
    waiting: int
    free_blocks: int
    kv_blocks: int


class Router(Protocol):
    """Chooses an instance for each request."""

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """Number of the instance that takes ``spec``."""


ROUTERS: Registry[Router] = Registry("router", "servesim.runtime.routers")
