"""A run: a workload, a router and engines in one event loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from servesim.errors import InputError, ServesimError, UnsupportedError
from servesim.runtime import cancelling
from servesim.runtime.clients import Clients
from servesim.runtime.dispatch import Dispatch
from servesim.runtime.encoding import Encodings
from servesim.runtime.events import EventQueue, Order
from servesim.runtime.handover import Handovers
from servesim.runtime.instance import DEFAULT_OPTIONS, EngineOptions, Instance, with_own_draws
from servesim.runtime.lifecycle import Lifecycle
from servesim.runtime.member import Member, chosen
from servesim.runtime.network.between import network_between
from servesim.runtime.network.fabric import Fabric
from servesim.runtime.network.flows import Network
from servesim.runtime.parallel.waves import join_waves
from servesim.runtime.parking import Parking
from servesim.runtime.records import Records, RequestRecords, State, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role, encoded
from servesim.runtime.routers import Router
from servesim.runtime.routers.round_robin import RoundRobin
from servesim.runtime.system import System
from servesim.runtime.tiers.connect import connect_tiers
from servesim.runtime.transfers import Transfers
from servesim.runtime.workloads import Workload

#: Called whenever requests finish: requests done, requests in all if known, simulated seconds.
Progress = Callable[[int, int | None, float], None]


class Cluster:
    """Engines behind a router, driven by events in the order (time, kind, ticket)."""

    def __init__(
        self,
        workload: Workload,
        instances: Sequence[Instance],
        router: Router,
        options: EngineOptions = DEFAULT_OPTIONS,
        system: System | None = None,
    ) -> None:
        """Raises:
        InputError: no instances, or roles that need each other or a network and have it not.
        UnsupportedError: ranks in lock step that fail, or clients that give up where instances
            have roles.
        """
        if not instances:
            raise InputError("a cluster needs at least one instance")
        system = system or System()
        instances = with_own_draws(instances)
        self.requests = RequestRecords()
        self.members = [Member(i, one, self.requests, options) for i, one in enumerate(instances)]
        join_waves([member.engine for member in self.members])
        if system.failures.expected and any(one.wave for one in instances):
            raise UnsupportedError("ranks in lock step cannot fail one by one")
        self._router = router
        self._events = EventQueue()
        self._parked = Parking(self._events, self._too_late)
        self._specs: dict[int, RequestSpec] = {}  # of the requests under way, by row
        self._done = 0
        self._progress: Progress | None = None
        self._network = Network(Fabric(network_between(instances, system.topology)))
        transfers = Transfers(self._network, self._events)
        tiers = [(one.name, one.engine.tiers) for one in self.members if one.engine.tiers]
        connect_tiers(tiers, transfers)
        self._handovers = Handovers(
            self.members, transfers, self._events, self.requests, system.handover, self._wake
        )
        self._dispatcher = Dispatch(self.members, router, self._handovers)
        choose = self._dispatcher.encoded_to
        self._encodings = Encodings(
            self.members, transfers, self.requests, choose, self._send, self._wake
        )
        self._lifecycle = Lifecycle(self.members, self._events, self._down, self._up)
        changes = self._expect(system)
        roles = any(one.role is not Role.BOTH for one in instances)
        self._clients = Clients(
            workload.source(), system.frontend, system.cancel_after_s, patient=roles
        )
        for member in self.members:
            member.engine.outlet = self._clients.outlet(len(self.members))
        self._reactive = self._clients.reactive or changes or roles

    def _expect(self, system: System) -> bool:
        """Announce failures and scaling; whether there are any."""
        self._lifecycle.expect(system.failures)
        if system.autoscaling is not None:
            self._lifecycle.scale(system.autoscaling, lambda: len(self._parked))
        return system.failures.expected or system.autoscaling is not None

    def run(self, progress: Progress | None = None) -> Records:
        """Take every request to its end.

        Raises:
            InputError: the workload has no requests.
            ServesimError: a request is neither finished nor rejected at the end.
        """
        if self._clients.next_s() == math.inf:
            raise InputError("the workload has no requests")
        self._progress = progress
        now = 0.0
        while True:
            arrival = self._clients.next_s()
            if (arrival, Order.ARRIVAL) < self._events.next:
                self._arrive()
                now = arrival
            elif self._events.live or arrival < math.inf:
                now = self._events.happen()
            elif not self._settle(now):
                break
        self._require_all_done()
        if self._clients.served:
            self.requests.answer_later(self._clients.response_s)
        return Records(
            self.requests,
            tuple(member.engine.records for member in self.members),
            tuple(self._lifecycle.changes),
            self._network.carried_by_name(),
        )

    # Requests.

    def _arrive(self) -> None:
        spec, there = self._clients.take()
        row = self.requests.add(spec)
        self._specs[row] = spec
        if there == spec.arrival_s:
            self._dispatch(row, there)
        else:
            self._events.push(there, Order.ARRIVAL, partial(self._dispatch, row))

    def _dispatch(self, row: int, now: float) -> None:
        """Send a request to an instance; let it wait for one if none serves, or refuse it."""
        spec = self._specs[row]
        if self._too_late(row, now):
            return
        apart = self._encodings.needed(spec)
        left = encoded(spec) if apart else spec  # of the language model
        able = self._dispatcher.able(left)
        reason = self._encodings.possible(spec) if apart else None
        if not able or reason is not None:
            self._reject(row, reason or self._dispatcher.reason(left), now)
            return
        up = [member for member in able if member.state is State.UP]
        if not up or (apart and not self._encodings.begin(spec, row, now)):
            self._parked.add(row, cancelling.deadline(spec))
        elif not apart:
            self._send(row, chosen(self._router, spec, up), now)

    def _too_late(self, row: int, now: float) -> bool:
        """Cancel a request if nobody waits for it any more; whether that is so."""
        spec = self._specs[row]
        if now < cancelling.deadline(spec):
            return False
        self.requests.cancel(row, cancelling.reason(spec))
        self._finished(row, now)
        return True

    def _send(self, row: int, member: Member, now: float) -> None:
        """Let ``member`` compute the prompt of a request."""
        spec = self._specs[row]
        if self._encodings.needed(spec):
            spec = encoded(spec)
        self.requests.send(row, member.number)
        if member.instance.role is Role.PREFILL and self._handovers.needed(spec):
            self._handovers.begin(spec, row, member)
        else:
            member.engine.submit(spec, row)
        self._wake(member, now)

    def _reject(self, row: int, reason: str, now: float) -> None:
        self.requests.reject(row, reason)
        self._finished(row, now)

    def _finished(self, row: int, now: float) -> None:
        self._done += 1
        self._clients.answer(self._specs.pop(row), now + self.requests.last_late_s[row])

    # Steps.

    def _wake(self, member: Member, now: float) -> None:
        """Something changed for ``member``: let it go on if it stands still."""
        if member.engine.idle:
            self._start(member, now)

    def _start(self, member: Member, now: float) -> None:
        if not member.starting and member.state is not State.FAILED:
            member.starting = True
            starts = partial(self._step_starts, member, member.life)
            self._events.push(now, Order.STEP_STARTS, starts)

    def _step_starts(self, member: Member, life: int, now: float) -> None:
        if life != member.life:
            return
        member.starting = False
        end = member.engine.run(now, self._horizon())
        if end is None:
            self._lifecycle.drained(member, now)
            return
        if end < math.inf:
            self._step_lasts(member, life, end, now)
        else:
            member.engine.tell_end = partial(self._step_lasts, member, life)

    def _step_lasts(self, member: Member, life: int, end: float, now: float) -> None:
        """The step under way ends at ``end``."""
        self._events.push(end, Order.STEP_ENDS, partial(self._step_ends, member, life))
        if member.engine.tells_prefills:
            for one in self._in_step(member):
                self._handovers.step_started(one, now)

    def _step_ends(self, member: Member, life: int, now: float) -> None:
        if life != member.life:
            return
        for seq in member.engine.complete():
            if seq.hands_over and member.instance.role is Role.ENCODE:
                self._encodings.encoded(seq, now)
            elif seq.hands_over:
                self._handovers.prefilled(seq, now)
            else:
                self._finished(seq.index, now)
        if self._progress is not None:
            self._progress(self._done, self._clients.total, now)
        for one in self._in_step(member):
            self._handovers.room(one, now)
            self._encodings.settle(one, now)
        self._start(member, now)

    def _in_step(self, member: Member) -> Sequence[Member]:
        """Those whose steps are those of ``member``."""
        wave = member.instance.wave
        return [one for one in self.members if one.instance.wave == wave] if wave else [member]

    def _horizon(self) -> float:
        """Until when an engine can go on without being told of anything.

        That is the next arrival; in a cluster that is reactive any event may tell it something.
        """
        horizon = self._clients.next_s()
        return min(horizon, self._events.next[0]) if self._reactive else horizon

    # Instances that come and go.

    def _down(self, member: Member, now: float) -> None:
        """A member failed: what it had starts again elsewhere."""
        rows = [seq.index for seq in member.engine.fail(now)]
        rows += self._handovers.lost(member, now) + self._encodings.lost(member, now)
        for row in dict.fromkeys(sorted(rows)):
            if not self._too_late(row, now):
                self.requests.retry(row)
                self._dispatch(row, now)

    def _up(self, member: Member, now: float) -> None:
        """A member serves: requests that wait for one may go there."""
        self._handovers.place_all(now)
        self._encodings.place_all(now)
        for row in self._parked.take_all():
            self._dispatch(row, now)
        self._wake(member, now)

    def _settle(self, now: float) -> bool:
        """Nothing is under way: free who waits for each other, give up what nobody will take."""
        if self._handovers.relieve(now):
            return True
        parked = self._parked.take_all()
        left = [*parked, *self._handovers.abandon(now), *self._encodings.abandon(now)]
        for row in left:
            self._reject(row, "no instance is left that could run it", now)
        return bool(left)

    def _require_all_done(self) -> None:
        left = self.requests.count(Status.UNFINISHED)
        if left:
            raise ServesimError(f"{left} of {len(self.requests)} requests never finished")


def simulate(
    workload: Workload,
    instances: Sequence[Instance],
    router: Router | None = None,
    *,
    progress: Progress | None = None,
    options: EngineOptions = DEFAULT_OPTIONS,
    system: System | None = None,
) -> Records:
    """Run ``workload`` on ``instances`` behind ``router`` (round robin by default).

    Raises:
        InputError: there are no instances or no requests, or instances cannot work together.
        ServesimError: a request is neither finished nor rejected at the end.
    """
    return Cluster(workload, instances, router or RoundRobin(), options, system).run(progress)
