"""Instances that come and go: failures, recoveries, starts and drains as events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from servesim.errors import UnknownNameError
from servesim.runtime.autoscaling import Autoscaling
from servesim.runtime.events import EventQueue, Order
from servesim.runtime.failures import Failures
from servesim.runtime.member import Member
from servesim.runtime.records import Change, State

#: Called with a member and the time.
Notice = Callable[[Member, float], None]


class Lifecycle:
    """Changes the states of a cluster's members.

    Attributes:
        changes: what has happened so far.
    """

    def __init__(
        self,
        members: Sequence[Member],
        events: EventQueue,
        down: Notice,
        up: Notice,
    ) -> None:
        """Args:
        down, up: what the cluster does when a member failed, or serves again.
        """
        self.changes: list[Change] = []
        self._members = members
        self._events = events
        self._down = down
        self._up = up

    # Failures.

    def expect(self, failures: Failures) -> None:
        """Announce the failures.

        Raises:
            UnknownNameError: an outage of an instance that does not exist.
        """
        named = {member.name: member for member in self._members}
        for outage in failures.outages:
            if outage.instance not in named:
                raise UnknownNameError("instance", outage.instance, named)
            fail = partial(self._fail, named[outage.instance], outage.down_s)
            self._events.push(outage.at_s, Order.CHANGE, fail, live=False)
        for member in self._members:
            self._draw(member, failures.drawn(member.name), 0.0)

    def _draw(self, member: Member, times: Iterator[tuple[float, float]], now: float) -> None:
        """Announce the next random failure, if there are any."""
        served_s, down_s = next(times, (None, None))
        if served_s is None or down_s is None:
            return

        def fail(at: float) -> None:
            self._fail(member, down_s, at)
            self._draw(member, times, at + down_s)

        self._events.push(now + served_s, Order.CHANGE, fail, live=False)

    def _fail(self, member: Member, down_s: float | None, now: float) -> None:
        if member.state not in (State.UP, State.DRAINING):
            return
        self._change(member, State.FAILED, now)
        member.life += 1
        member.starting = False
        if down_s is not None:
            self._events.push(now + down_s, Order.CHANGE, partial(self._serve, member))
        self._down(member, now)

    def _serve(self, member: Member, now: float) -> None:
        self._change(member, State.UP, now)
        self._up(member, now)

    # Scaling.

    def scale(self, scaling: Autoscaling, parked: Callable[[], int]) -> None:
        """Start with the least of each group and look at their load ever after.

        Args:
            parked: requests that wait for any instance.
        """
        for group in self._groups():
            for member in group[scaling.min_instances :]:
                self._change(member, State.STOPPED, 0.0)

        def look(now: float) -> None:
            for group in self._groups():
                self._adjust(group, scaling, sum(m.load for m in group) + parked(), now)
            self._events.push(now + scaling.interval_s, Order.CHANGE, look, live=False)

        self._events.push(scaling.interval_s, Order.CHANGE, look, live=False)

    def _adjust(
        self, group: Sequence[Member], scaling: Autoscaling, requests: int, now: float
    ) -> None:
        serving = [m for m in group if m.state in (State.UP, State.STARTING)]
        wanted = scaling.wanted(len(serving), requests)
        if wanted > 0:
            self._add(group, scaling.start_delay_s, now)
        elif wanted < 0 and serving[-1].state is State.UP:
            self._change(serving[-1], State.DRAINING, now)
            self.drained(serving[-1], now)

    def _add(self, group: Sequence[Member], delay_s: float, now: float) -> None:
        """One more: that which still drains, else one that is stopped."""
        for state, then in ((State.DRAINING, State.UP), (State.STOPPED, State.STARTING)):
            for member in group:
                if member.state is state:
                    self._change(member, then, now)
                    if then is State.UP:
                        self._up(member, now)
                    else:
                        serve = partial(self._serve, member)
                        self._events.push(now + delay_s, Order.CHANGE, serve)
                    return

    def drained(self, member: Member, now: float) -> None:
        """Stop a draining member that has nothing left to do."""
        if member.state is State.DRAINING and member.load == 0 and member.engine.empty:
            self._change(member, State.STOPPED, now)

    def _groups(self) -> list[list[Member]]:
        groups: dict[str, list[Member]] = {}
        for member in self._members:
            groups.setdefault(member.instance.group, []).append(member)
        return list(groups.values())

    def _change(self, member: Member, state: State, now: float) -> None:
        member.state = state
        self.changes.append(Change(now, member.number, state))
