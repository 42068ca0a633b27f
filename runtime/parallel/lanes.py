"""Scheduling with several steps in flight: each has decodes of its own."""

from __future__ import annotations

from collections import deque

from servesim.errors import UnsupportedError
from servesim.runtime.decodes import DecodeSet
from servesim.runtime.plan import Plan
from servesim.runtime.scheduler import Scheduler
from servesim.runtime.sequence import Sequence


class LaneScheduler(Scheduler):
    """A scheduler whose decodes are dealt to lanes, of which each is in flight or free.

    A decoding sequence cannot get its next token before the step in flight has given the last one,
    so it stays in the lane in which its prompt ended: the sequences of one step come back together.
    Prompts go on in any lane, as their tokens are known. ``decodes`` is the lane being scheduled.
    """

    def __init__(self, base: Scheduler, lanes: int) -> None:
        """As ``base``, of which nothing was asked yet, with ``lanes`` lanes.

        Raises:
            UnsupportedError: ``base`` has rules of its own, which lanes would not follow.
        """
        if type(base) is not Scheduler:
            raise UnsupportedError(
                f"scheduling_policy {base.config.scheduling_policy} is modelled for engines that "
                "take steps one by one, not in pipelines or in lock step"
            )
        super().__init__(base.config, base.policy, base.cache, base.modes, base.drafts)
        self.lanes = [self.new_decodes() for _ in range(lanes)]
        self.free = deque(self.lanes)
        self.in_flight: deque[DecodeSet] = deque()

    def schedule(self) -> Plan:
        """Decide a step in the next free lane; it is in flight if it has any tokens."""
        self.decodes = self._next_lane()
        plan = super().schedule()
        if not plan.empty:
            self.free.remove(self.decodes)
            self.in_flight.append(self.decodes)
        self._move_held_back()
        return plan

    def update(self, plan: Plan) -> list[Sequence]:
        """Account for the oldest step in flight, which has ended; its lane is free again."""
        self.free.append(self.in_flight.popleft())
        return super().update(plan)

    def decodes_of(self, seq: Sequence) -> DecodeSet:
        """The lane of a decoding sequence."""
        return next(lane for lane in self.lanes if seq in lane)

    def _next_lane(self) -> DecodeSet:
        """A free lane, one that has sequences before others; the next to be free without any."""
        if not self.free:
            return self.in_flight[0]
        return next((lane for lane in self.free if lane.count), self.free[0])

    def _move_held_back(self) -> None:
        """Sequences that got nothing are not in flight: the next step may serve them."""
        lane = self._next_lane()
        if lane is self.decodes:
            return
        for seq in self.held_back.values():
            self.decodes.hand(seq, lane)
