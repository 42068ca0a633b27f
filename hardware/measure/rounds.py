"""Measuring: every kernel once a round, rounds interleaved, until all is quiet or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from servesim.errors import UnsupportedError
from servesim.graph.work import Work
from servesim.hardware.measure.bench import Bench, Maker, Room
from servesim.hardware.measure.company import ALONE, Company, company_of
from servesim.hardware.measure.kernels.tensors import free
from servesim.hardware.measure.naming import kernels_in
from servesim.hardware.measure.noise import Estimate, estimate
from servesim.hardware.measure.plan import Group
from servesim.hardware.measure.store import Store
from servesim.hardware.measure.timer import Call, Timer

#: Seconds of calls that one kernel gets in a round, and those it may take with what runs between
#: them; how many calls at least and at most.
_ROUND_S, _LONGEST_S, _FEWEST_CALLS, _MOST_CALLS = 0.012, 0.06, 3, 64


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a measurement is.

    Attributes:
        round: from 1.
        done, total: kernels of this round.
        left_s: seconds until the end of this round, and of what is likely to be repeated.
        family: what is measured now.
    """

    round: int
    done: int
    total: int
    left_s: float
    family: str


@dataclass
class Session:
    """One invocation's measuring.

    Attributes:
        makers: kernels by kind of operator.
        refused: why a kernel could not be measured, by name.
    """

    makers: Mapping[str, Maker]
    room: Room
    timer: Timer
    store: Store
    deadline: float
    show: Callable[[Progress], None] = lambda _: None
    refused: dict[str, str] = field(default_factory=dict)
    _seconds_a_kernel: float = 0.0

    def run(self, groups: Sequence[Group]) -> None:
        """Measure ``groups`` round after round; what is quiet rests, what is known is not redone.

        A round that time is too short for is cut off; interrupting loses nothing but the kernel
        at hand. A kernel that fails is noted and not tried again.
        """
        number = 0
        while True:
            waiting = [(group, self._open(group, number + 1)) for group in groups]
            waiting = [(group, names) for group, names in waiting if names]
            if not waiting:
                if number >= self._last_round(groups):
                    return
                number += 1
                continue
            number += 1
            if not self._round(number, waiting):
                return

    def estimates(self) -> dict[str, tuple[Work, Estimate]]:
        """Work and time by name of all that the store holds, of earlier invocations, too."""
        return {
            name: (work, estimate(self.store.rounds[name]))
            for name, work in kernels_in(self.store.rounds).items()
        }

    def settled(self, group: Group) -> bool:
        """Whether nothing of ``group`` would be measured again."""
        known = self.store.rounds
        return all(name in known and estimate(known[name]).settled for name in group.works)

    def _open(self, group: Group, number: int) -> list[str]:
        """Kernels of ``group`` that have fewer than ``number`` rounds and are not settled."""
        known = self.store.rounds
        return [
            name
            for name in group.works
            if name not in self.refused
            and len(known.get(name, ())) < number
            and not (name in known and estimate(known[name]).settled)
        ]

    def _last_round(self, groups: Sequence[Group]) -> int:
        known = self.store.rounds
        return max((len(known.get(n, ())) for g in groups for n in g.works), default=0)

    def _round(self, number: int, waiting: Sequence[tuple[Group, list[str]]]) -> bool:
        """Measure each kernel once; whether there is time for more."""
        total = sum(len(names) for _, names in waiting)
        done = 0
        for group, names in waiting:
            start = time.monotonic()
            if start >= self.deadline:
                return False
            done += self._group(group, names)
            each = (time.monotonic() - start) / len(names)
            self._seconds_a_kernel = 0.9 * (self._seconds_a_kernel or each) + 0.1 * each
            left = (total - done + max(0, 3 - number) * total) * self._seconds_a_kernel
            left = min(left, self.deadline - time.monotonic())
            self.show(Progress(number, done, total, max(0.0, left), group.family))
        return True

    def _group(self, group: Group, names: Sequence[str]) -> int:
        try:
            bench = self._bench(group)
        except Exception as error:
            self.refused |= dict.fromkeys(names, _reason(error))
            free(self.room.device)
            return len(names)
        for name in names:
            try:
                work = group.works[name]
                calls = bench.calls(work)
                if name == names[0]:
                    self.timer.seconds(calls)  # no engine reads its weights for the first time
                self.store.add(name, self.once(calls, company_of(work)))
            except Exception as error:
                self.refused[name] = _reason(error)
                free(self.room.device)
        return len(names)

    def _bench(self, group: Group) -> Bench:
        maker = self.makers.get(group.family)
        if maker is None:
            raise UnsupportedError(f"no kernel for {group.family}")
        return maker(group.spec, self.room)

    def once(self, calls: Sequence[Call], after: Company = ALONE) -> float:
        """Seconds of a kernel: the median over as many calls as fit a short while, warmed up."""
        first = self.timer.seconds(calls[:1], after)
        start = time.monotonic()
        second = self.timer.seconds(calls[-1:], after)
        each, whole = min(first[0], second[0]), time.monotonic() - start
        fitting = min(_ROUND_S / each, _LONGEST_S / whole if whole else _MOST_CALLS)
        count = min(_MOST_CALLS, max(_FEWEST_CALLS, int(fitting)))
        rotated = [calls[i % len(calls)] for i in range(count)]
        return median(self.timer.seconds(rotated, after))


def _reason(error: Exception) -> str:
    """Why a kernel failed, in one line: libraries explain at length."""
    text = (str(error).strip() or "no reason given").splitlines()[0]
    return text if isinstance(error, UnsupportedError) else f"{type(error).__name__}: {text}"
