"""One memory that keeps chunks of KV: what is in it, and its traffic."""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servesim.runtime.tiers.eviction import EVICTIONS, Eviction
from servesim.runtime.tiers.options import Tier
from servesim.runtime.tiers.ways import Arrived, Link, Way

COLUMNS = ("time_s", "resident_bytes", "written_bytes", "read_bytes", "hit_tokens")


@dataclass(slots=True)
class Entry:
    """A chunk: its size, the seconds to compute it again, and when it is there."""

    size: float
    cost: float
    ready_s: float = math.inf

    def arrived(self, now: float) -> None:
        """All of it is there."""
        self.ready_s = now


class Store:
    """Chunks up to a capacity; ``bytes in = bytes out + resident`` at every moment.

    Attributes:
        resident: bytes there now.
        bytes_in, bytes_out: ever added, and ever evicted or taken away.
        read: bytes recalled; ``hit_tokens``, tokens that this spared computing.
        reader, writer: the ways from it and to it, if nothing else shares them.
    """

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.resident = self.bytes_in = self.bytes_out = self.read = 0.0
        self.hit_tokens = 0
        self.reader = Link(tier.bandwidth, tier.latency_s)
        self.writer = Link(tier.write_bandwidth or tier.bandwidth, tier.latency_s)
        self.records = TierRecords(tier.name, tier.pool, tier.capacity_bytes)
        self._policy: Eviction = EVICTIONS.build(tier.eviction)
        self._entries: dict[Hashable, Entry] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def holds(self, key: Hashable, now: float) -> bool:
        """Whether a chunk can be read now."""
        entry = self._entries.get(key)
        return entry is not None and entry.ready_s <= now

    def put(
        self, key: Hashable, entry: Entry, now: float, way: Way | None = None
    ) -> list[tuple[Hashable, Entry]]:
        """Write a chunk over ``way``, its own if there is no other; returns those evicted for it.

        One that is there already is not written again; one larger than the tier not at all.
        """
        if key in self._entries:
            self._policy.used(key)
            return []
        if entry.size > self.tier.capacity_bytes:
            return []
        evicted = []
        while self.resident + entry.size > self.tier.capacity_bytes:
            victim = self._policy.victim()
            evicted.append((victim, self.take(victim)))
        self._entries[key] = entry
        entry.ready_s = (way or self.writer).transfer(entry.size, now, entry.arrived)
        self._policy.added(key, entry.cost)
        self.resident += entry.size
        self.bytes_in += entry.size
        self._record(now)
        return evicted

    def take(self, key: Hashable) -> Entry:
        """Remove a chunk."""
        entry = self._entries.pop(key)
        self._policy.removed(key)
        self.resident -= entry.size
        self.bytes_out += entry.size
        return entry

    def recall(
        self,
        key: Hashable,
        tokens: int,
        now: float,
        way: Way | None = None,
        then: Arrived = lambda now: None,
    ) -> float:
        """Read a chunk that spares computing ``tokens``; returns as ``Way.transfer``."""
        size = self._entries[key].size
        self._policy.used(key)
        self.read += size
        self.hit_tokens += tokens
        if self.tier.exclusive:
            self.take(key)
        self._record(now)
        return (way or self.reader).transfer(size, now, then)

    def _record(self, now: float) -> None:
        self.records.add(now, (self.resident, self.bytes_in, self.read, self.hit_tokens))


class TierRecords:
    """What a tier held and moved over time; totals since the start but for ``resident_bytes``.

    When there are very many rows, every second one is dropped.
    """

    def __init__(self, name: str, pool: str, capacity_bytes: float, limit: int = 1 << 16) -> None:
        self.name = name
        self.pool = pool
        self.capacity_bytes = capacity_bytes
        self._limit = limit
        self._columns = [array("d") for _ in COLUMNS]

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, time_s: float, values: tuple[float, float, float, float]) -> None:
        """A new row, or the last one anew if that is of the same time."""
        if len(self) and self._columns[0][-1] == time_s:
            for column in self._columns:
                column.pop()
        elif len(self) >= self._limit:
            self._columns = [column[::2] for column in self._columns]
        for column, value in zip(self._columns, (time_s, *values), strict=True):
            column.append(value)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """A copy of column ``name`` (one of ``COLUMNS``)."""
        return np.array(self._columns[COLUMNS.index(name)])
