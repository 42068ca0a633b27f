"""What a full tier gives up, one policy a file."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from servesim.registry import Registry


class Eviction(Protocol):
    """Keeps the entries of one tier in order; every call takes O(log n) at most."""

    def added(self, key: Hashable, cost: float) -> None:
        """A new entry; to compute it again would take ``cost`` seconds."""

    def used(self, key: Hashable) -> None:
        """An entry was recalled, or written once more."""

    def removed(self, key: Hashable) -> None:
        """An entry is gone."""

    def victim(self) -> Hashable:
        """The entry to give up first; there is one. It stays until ``removed``."""


EVICTIONS: Registry[Eviction] = Registry("eviction policy", "servesim.runtime.tiers.eviction")
