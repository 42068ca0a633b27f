"""When the tasks of a step end on several devices and links: a list schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

#: Seconds within which two states of the machine count as equal.
_EQUAL = 1e-12
#: Seconds within which two tasks count as able to start at once, so that no rounding decides.
_AT_ONCE = 1e-9


@dataclass(frozen=True, slots=True)
class Task:
    """Something that holds resources for a time.

    Attributes:
        resources: names of a device, or of the links on a way, held together.
        after: indices of earlier tasks of the same block that must have ended.
    """

    resources: tuple[str, ...]
    seconds: float
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """A block of tasks, ``count`` times over.

    Attributes:
        lanes: the block's tasks for each part of the batch. Parts do not depend on each other;
            inside a part each repetition starts when the last task of the one before has ended.
    """

    lanes: tuple[tuple[Task, ...], ...]
    count: int = 1


@dataclass
class Machine:
    """When every part of the batch is ready and every resource free, in seconds.

    A resource takes the tasks of one part in their order; of several parts the one first whose
    task can start first, and at equal times the one that feeds another resource. So at any time
    something runs: a step never takes longer than all its tasks together, and never less than the
    busiest resource.
    """

    ready: list[float]
    free: dict[str, float] = field(default_factory=dict)

    @property
    def end(self) -> float:
        """When all has ended."""
        return max(*self.ready, *self.free.values(), 0.0)

    def run(self, stretch: Stretch) -> None:
        """Schedule ``stretch`` behind all that was scheduled before.

        Repetitions are scheduled until the machine is in a state that it was in before, up to a
        shift in time. From there on everything repeats with that period, so as many periods as
        fit are added at once: a hundred equal layers take a handful of them to schedule.
        """
        _Run(self, stretch).finish()


def makespan(stretches: Sequence[Stretch]) -> float:
    """Seconds from the start of the first task to the end of the last."""
    machine = Machine([0.0] * max((len(s.lanes) for s in stretches), default=0))
    for stretch in stretches:
        machine.run(stretch)
    return machine.end if machine.ready else 0.0


class _Run:
    """One stretch on a machine."""

    def __init__(self, machine: Machine, stretch: Stretch) -> None:
        self.machine, self.stretch = machine, stretch
        self.done = [0] * len(stretch.lanes)  # repetitions
        self.ends: list[list[float]] = [[] for _ in stretch.lanes]  # in the current repetition
        self.seen: dict[tuple[object, ...], tuple[int, float]] = {}

    def finish(self) -> None:
        open_lanes = [i for i, tasks in enumerate(self.stretch.lanes) if tasks]
        while open_lanes:
            lane = min(open_lanes, key=self._urgency)
            if self._commit(lane) and lane == open_lanes[0]:
                self._skip_periods(lane)
            open_lanes = [i for i in open_lanes if self.done[i] < self.stretch.count]

    def _urgency(self, lane: int) -> tuple[int, bool, int]:
        """What can start first goes first; of those at once, what another resource waits for."""
        tasks, at = self.stretch.lanes[lane], len(self.ends[lane])
        last = at + 1 == len(tasks) or tasks[at + 1].resources == tasks[at].resources
        return round(self._start(lane) / _AT_ONCE), last, self.done[lane]

    def _start(self, lane: int) -> float:
        """When the next task of ``lane`` can start."""
        ends, free = self.ends[lane], self.machine.free
        task = self.stretch.lanes[lane][len(ends)]
        start = self.machine.ready[lane]
        for i in task.after:
            start = max(start, ends[i])
        for name in task.resources:
            start = max(start, free.get(name, 0.0))
        return start

    def _commit(self, lane: int) -> bool:
        """Schedule the next task of ``lane``; whether a repetition is complete with it."""
        tasks, ends = self.stretch.lanes[lane], self.ends[lane]
        task = tasks[len(ends)]
        end = self._start(lane) + task.seconds
        ends.append(end)
        if task.seconds:
            for name in task.resources:
                self.machine.free[name] = end
        if len(ends) < len(tasks):
            return False
        self.machine.ready[lane] = end
        self.done[lane] += 1
        self.ends[lane] = []
        return True

    def _skip_periods(self, lane: int) -> None:
        now, done = self.machine.ready[lane], self.done[lane]
        state = self._state(now, done)
        before = self.seen.setdefault(state, (done, now))
        repetitions = done - before[0]
        if not repetitions:
            return
        periods = (self.stretch.count - 1 - max(self.done)) // repetitions
        if periods > 0:
            self._shift(periods * (now - before[1]), periods * repetitions)
            self.seen.clear()

    def _state(self, now: float, done: int) -> tuple[object, ...]:
        """All that later tasks depend on, relative to ``now``."""
        machine, first = self.machine, min(self.machine.ready)

        def since(seconds: float) -> int:
            return round((seconds - now) / _EQUAL)

        free = sorted((name, since(max(end, first))) for name, end in machine.free.items())
        ends = tuple(tuple(since(end) for end in ends) for ends in self.ends)
        ready = tuple(since(ready) for ready in machine.ready)
        return (tuple(n - done for n in self.done), ends, ready, tuple(free))

    def _shift(self, seconds: float, repetitions: int) -> None:
        machine, first = self.machine, min(self.machine.ready)
        machine.ready[:] = [ready + seconds for ready in machine.ready]
        for name, end in machine.free.items():
            machine.free[name] = max(end, first) + seconds
        self.ends = [[end + seconds for end in ends] for ends in self.ends]
        self.done = [n + repetitions for n in self.done]
