"""An engine's tiers: what is looked up, recalled and written where."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from servesim.errors import InputError
from servesim.graph.batch import BatchShape
from servesim.runtime.step import StepModel
from servesim.runtime.tiers.arrivals import Arrivals
from servesim.runtime.tiers.options import Offload
from servesim.runtime.tiers.store import Entry, Store
from servesim.runtime.tiers.ways import Way

#: Seconds to compute so many tokens after so many others.
PrefillSeconds = Callable[[int, int], float]


class Pools:
    """The stores of a run, by the pool they belong to."""

    def __init__(self) -> None:
        self.stores: list[Store] = []
        self._shared: dict[str, Store] = {}

    def stores_for(self, offload: Offload) -> list[Store]:
        """A store for each tier: the one its pool has, or a new one.

        Raises:
            InputError: the pool has another kind of memory.
        """
        found = []
        for tier in offload.tiers:
            store = self._shared.get(tier.pool) if tier.pool else None
            if store is not None and store.tier != tier:
                raise InputError(f"two tiers of pool {tier.pool!r} are not alike")
            if store is None:
                store = Store(tier)
                self.stores.append(store)
                if tier.pool:
                    self._shared[tier.pool] = store
            found.append(store)
        return found


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a sequence: its identity, and the tokens before it."""

    identity: int
    before: int


@dataclass(frozen=True, slots=True)
class Recall:
    """Chunks found below the accelerator's memory, each with its tier; ``tokens`` of them new."""

    chunks: tuple[tuple[Chunk, int], ...]
    tokens: int


NOTHING = Recall((), 0)


@dataclass(frozen=True, slots=True)
class Ways:
    """How a tier is reached: from it, to it from the engine, and to it from the tier above."""

    reader: Way
    writer: Way
    demoter: Way


class Hierarchy:
    """The tiers of one engine.

    Attributes:
        now: the time; whoever drives the engine keeps it.
        shared: whether anything else has to do with the stores or their traffic.
        can_wait: whether the engine's steps may end when a network says.
    """

    def __init__(
        self,
        offload: Offload,
        stores: Sequence[Store],
        prefill_seconds: PrefillSeconds,
        *,
        can_wait: bool = False,
    ) -> None:
        self.offload = offload
        self.stores = stores
        self.now = 0.0
        self.shared = any(store.tier.pool or store.tier.at for store in stores)
        self.can_wait = can_wait
        self.ways = [Ways(store.reader, store.writer, store.writer) for store in stores]
        self._life = 0  # what was asked in an earlier one arrives for nobody
        self._prefill_seconds = prefill_seconds
        self._chunk_bytes = offload.chunk_tokens * offload.bytes_per_token
        self._computed: list[tuple[Chunk, bool]] = []  # to be written when the step has ended
        self._lost: list[Chunk] = []  # evicted from the accelerator's memory in this step
        self._recalled: list[Recall] = []  # for the next step

    def connect(self, place: int, ways: Ways) -> None:
        """Reach the tier at ``place`` in this way."""
        self.ways[place] = ways

    def find(self, chunks: Sequence[Chunk], computed: int) -> Recall:
        """The chunks, from the first on, that some tier holds and that are worth recalling.

        Args:
            computed: tokens that the accelerator's memory has; the first chunk holds the next.
        """
        found: list[tuple[Chunk, int]] = []
        for chunk in chunks:
            key = self._key(chunk)
            tier = next((i for i, s in enumerate(self.stores) if s.holds(key, self.now)), None)
            if tier is None:
                break
            found.append((chunk, tier))
        if not found:
            return NOTHING
        tokens = found[-1][0].before + self.offload.chunk_tokens - computed
        recall = Recall(tuple(found), tokens)
        if self.offload.recall == "cheaper" and not self._worthwhile(recall, computed):
            return NOTHING
        return recall

    def accept(self, recall: Recall) -> None:
        """Recall these chunks in the next step."""
        if recall.chunks:
            self._recalled.append(recall)

    def recalled_s(self, now: float, seconds: float, then: Callable[[float, float], None]) -> float:
        """When a step that starts ``now`` and computes for ``seconds`` ends, with its recalls.

        Infinity if that is not known yet: ``then`` is told the end, and the time, when it is.
        """
        life = self._life

        def known(arrived_s: float, told_s: float) -> None:
            if life == self._life:
                then(self._end_s(now, arrived_s, seconds), told_s)

        recalls, self._recalled = self._recalled, []
        arrivals = Arrivals(now, known)
        for recall in recalls:
            self._carry_out(recall, now, arrivals)
        return math.inf if arrivals.missing else self._end_s(now, arrivals.last_s, seconds)

    def _end_s(self, now: float, arrived: float, seconds: float) -> float:
        """End of a step from ``now`` whose recalls are all there when ``arrived``."""
        if arrived <= now:
            return now + seconds
        if not self.offload.layerwise:
            return arrived + seconds
        # Layers come one after another, and each is computed after the one before it.
        waits, layers = arrived - now, self.offload.num_layers
        return now + max(waits + seconds / layers, waits / layers + seconds)

    def computed(self, chunk: Chunk, *, swapped: bool = False) -> None:
        """Note that a chunk is computed, or that a preempted sequence leaves it behind."""
        self._computed.append((chunk, swapped))

    def lost(self, chunk: Chunk) -> None:
        """Note that the accelerator's memory no longer has a chunk."""
        self._lost.append(chunk)

    def clear(self) -> None:
        """Forget what the engine was about to do; what the tiers hold stays."""
        self._life += 1
        for pending in (self._computed, self._lost, self._recalled):
            pending.clear()

    def settle(self, now: float) -> None:
        """Write what the step that ends ``now`` computed and displaced."""
        self.now = now
        for chunk, swapped in self._computed:
            for place, store in enumerate(self.stores):
                if store.tier.write == "through" or (swapped and place == 0):
                    self._put(chunk, place)
        for chunk in self._lost:
            if self.stores[0].tier.write == "back":
                self._put(chunk, 0)
        self._computed.clear()
        self._lost.clear()

    def _key(self, chunk: Chunk) -> Hashable:
        """Identity of a chunk among those of other models and sizes."""
        return self._chunk_bytes, chunk.identity

    def _put(self, chunk: Chunk, place: int) -> None:
        cost = self._prefill_seconds(self.offload.chunk_tokens, chunk.before)
        entry = Entry(self._chunk_bytes, cost)
        self._write(self._key(chunk), entry, place, self.ways[place].writer)

    def _write(self, key: Hashable, entry: Entry, place: int, way: Way) -> None:
        evicted = self.stores[place].put(key, entry, self.now, way)
        below = place + 1
        if below < len(self.stores) and self.stores[below].tier.write == "back":
            for lost, old in evicted:
                copy = Entry(old.size, old.cost)
                self._write(lost, copy, below, self.ways[below].demoter)

    def _worthwhile(self, recall: Recall, computed: int) -> bool:
        """Whether it is expected to come back sooner than it could be computed again."""
        sizes = [0.0] * len(self.stores)
        for _, tier in recall.chunks:
            sizes[tier] += self._chunk_bytes
        waits = [
            ways.reader.expected_s(size, self.now)
            for ways, size in zip(self.ways, sizes, strict=True)
            if size
        ]
        return max(waits) < self._prefill_seconds(recall.tokens, computed)

    def _carry_out(self, recall: Recall, now: float, arrivals: Arrivals) -> None:
        """Read the chunks."""
        self.now = now
        fresh = recall.tokens
        last = recall.chunks[-1][0].before + self.offload.chunk_tokens
        start = last - fresh
        for chunk, tier in recall.chunks:
            spared = chunk.before + self.offload.chunk_tokens - max(start, chunk.before)
            key, store = self._key(chunk), self.stores[tier]
            if key not in store:  # displaced since it was found: as if read just before
                continue
            way = self.ways[tier].reader
            arrivals.expect(store.recall(key, spared, now, way, arrivals.arrived))
            for above in range(tier):
                if self.stores[above].tier.write == "through":
                    self._put(chunk, above)


def build_hierarchy(
    offload: Offload | None, pools: Pools, model: StepModel, *, can_wait: bool
) -> Hierarchy | None:
    """The tiers of an engine whose steps take what ``model`` says; None without any."""
    if offload is None:
        return None

    def prefill_seconds(tokens: int, context: int) -> float:
        return model.seconds(BatchShape(((tokens, context),)))

    return Hierarchy(offload, pools.stores_for(offload), prefill_seconds, can_wait=can_wait)
