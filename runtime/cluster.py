"""A run: a workload, a router and engines in one event loop."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from enum import IntEnum

from servesim.errors import InputError, ServesimError
from servesim.runtime.engine import DEFAULT_OPTIONS, Engine, EngineOptions, Instance
from servesim.runtime.parallel.build import build_engine
from servesim.runtime.parallel.waves import join_waves
from servesim.runtime.records import Records, RequestRecords, Status
from servesim.runtime.routers import Router, Snapshot
from servesim.runtime.routers.round_robin import RoundRobin
from servesim.runtime.workloads import Workload

#: Called whenever requests finish: requests done, requests in all if known, simulated seconds.
Progress = Callable[[int, int | None, float], None]


class Order(IntEnum):
    """What comes first of all that happens at one time."""

    STEP_ENDS = 0
    ARRIVAL = 1
    STEP_STARTS = 2


_NEVER = (math.inf, Order.ARRIVAL)


class Cluster:
    """Engines behind a router, driven by events in the order (time, kind, ticket)."""

    def __init__(
        self,
        workload: Workload,
        instances: Sequence[Instance],
        router: Router,
        options: EngineOptions = DEFAULT_OPTIONS,
    ) -> None:
        if not instances:
            raise InputError("a cluster needs at least one instance")
        self.requests = RequestRecords()
        self.engines = [build_engine(instance, self.requests, options) for instance in instances]
        join_waves(self.engines)
        self._source = workload.source()
        self._router = router
        self._events: list[tuple[float, Order, int, int]] = []  # (..., ticket, engine)
        self._starting = [False] * len(instances)
        self._tickets = 0
        self._done = 0

    def run(self, progress: Progress | None = None) -> Records:
        """Take every request to its end.

        Raises:
            InputError: the workload has no requests.
            ServesimError: a request is neither finished nor rejected at the end.
        """
        if self._source.next_s() is None:
            raise InputError("the workload has no requests")
        while True:
            arrival = self._next_arrival(), Order.ARRIVAL
            event = self._events[0][:2] if self._events else _NEVER
            if arrival < event:
                self._arrive()
            elif event < _NEVER:
                self._step(*heapq.heappop(self._events), progress)
            else:
                break
        self._require_all_done()
        return Records(self.requests, tuple(engine.records for engine in self.engines))

    def _next_arrival(self) -> float:
        time = self._source.next_s()
        return math.inf if time is None else time

    def _arrive(self) -> None:
        spec = self._source.take()
        chosen = self._router.choose(spec, [_snapshot(engine) for engine in self.engines])
        engine = self.engines[chosen]
        row = self.requests.add(spec, chosen)
        reason = engine.refusal(spec)
        if reason is not None:
            self.requests.reject(row, reason)
            self._done += 1
            self._source.finished(spec, spec.arrival_s)
            return
        engine.submit(spec, row)
        if engine.idle:
            self._start_at(spec.arrival_s, chosen)

    def _step(
        self, now: float, kind: Order, _: int, number: int, progress: Progress | None
    ) -> None:
        engine = self.engines[number]
        if kind is Order.STEP_STARTS:
            self._starting[number] = False
            end = engine.run(now, self._horizon())
            if end is not None:
                self._push(end, Order.STEP_ENDS, number)
            return
        for seq in engine.complete():
            self._done += 1
            self._source.finished(seq.spec, now)
        if progress is not None:
            progress(self._done, self._source.total, now)
        self._start_at(now, number)

    def _horizon(self) -> float:
        """Until when an engine can go on without being told of anything."""
        horizon = self._next_arrival()
        if self._source.reactive and self._events:
            horizon = min(horizon, self._events[0][0])
        return horizon

    def _start_at(self, now: float, number: int) -> None:
        if not self._starting[number]:
            self._starting[number] = True
            self._push(now, Order.STEP_STARTS, number)

    def _push(self, time: float, kind: Order, number: int) -> None:
        heapq.heappush(self._events, (time, kind, self._tickets, number))
        self._tickets += 1

    def _require_all_done(self) -> None:
        left = self.requests.count(Status.UNFINISHED)
        if left:
            raise ServesimError(f"{left} of {len(self.requests)} requests never finished")


def _snapshot(engine: Engine) -> Snapshot:
    scheduler = engine.scheduler
    return Snapshot(
        engine.records.name,
        len(scheduler.running),
        engine.waiting,
        scheduler.cache.free,
        scheduler.cache.total,
    )


def simulate(
    workload: Workload,
    instances: Sequence[Instance],
    router: Router | None = None,
    *,
    progress: Progress | None = None,
    options: EngineOptions = DEFAULT_OPTIONS,
) -> Records:
    """Run ``workload`` on ``instances`` behind ``router`` (round robin by default).

    Raises:
        InputError: there are no instances or no requests.
        ServesimError: a request is neither finished nor rejected at the end.
    """
    return Cluster(workload, instances, router or RoundRobin(), options).run(progress)
