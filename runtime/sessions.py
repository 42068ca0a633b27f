"""Sessions: requests that wait for the answers before them and go on with their contexts."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from servesim.errors import InputError
from servesim.runtime.request import RequestSpec

#: Tokens of the blocks in which shared contexts are described.
BLOCK = 16
#: Blocks a turn may have before the identities of two could meet.
_TURN_BLOCKS = 1 << 24
#: System prompts there may be; their identities come before those of the turns.
_SYSTEMS = 1 << 20


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session.

    Attributes:
        new_tokens: prompt tokens beyond the context it goes on with.
        output_tokens: of its answer.
        continues: earlier turn of the session with whose prompt and answer its prompt starts; None
            for one that starts with the session's system prompt alone.
        after: earlier turns that must be answered before it can come.
        delay_s: from the last of those answers (or the session's start) to its arrival: the time
            of a tool, or of thinking.

    Raises:
        InputError: a length, a time or a reference cannot be used.
    """

    new_tokens: int
    output_tokens: int
    continues: int | None = None
    after: tuple[int, ...] = ()
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("new_tokens", "output_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.delay_s < math.inf:
            raise InputError(f"delay_s must be a time from 0 on, not {self.delay_s}")
        if self.continues is not None and self.continues not in self.after:
            raise InputError(
                f"a turn that continues turn {self.continues} must come after its answer"
            )


@dataclass(frozen=True, slots=True)
class Session:
    """Turns that refer to one another.

    Attributes:
        arrival_s: when the session starts.
        system_tokens: of the system prompt, with which every context starts.
        system: which system prompt; sessions with the same one share its whole blocks.

    Raises:
        InputError: there are no turns, or one refers to itself or a later one.
    """

    arrival_s: float
    turns: tuple[Turn, ...]
    system_tokens: int = 0
    system: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.arrival_s) and self.arrival_s >= 0):
            raise InputError(f"arrival_s must be a time from 0 on, not {self.arrival_s}")
        if not self.turns:
            raise InputError("a session needs at least one turn")
        if self.system_tokens < 0:
            raise InputError(f"system_tokens must not be negative, not {self.system_tokens}")
        if not 0 <= self.system < _SYSTEMS:
            raise InputError(f"system must be a number below {_SYSTEMS}, not {self.system}")
        for number, turn in enumerate(self.turns):
            for other in turn.after:
                if not 0 <= other < number:
                    raise InputError(f"turn {number} cannot wait for turn {other}")


class SessionSource:
    """The requests of sessions, each as soon as what it waits for was answered.

    A request that is rejected counts as answered, so that its session goes on.

    Args:
        sessions: in order of arrival.
        concurrency: sessions under way at once, each followed by the next when it ends, whatever
            their times of arrival; None to start them at those.
    """

    reactive = True

    def __init__(self, sessions: Sequence[Session], concurrency: int | None = None) -> None:
        self._sessions = sessions
        self._first = [0, *accumulate(len(session.turns) for session in sessions)]
        self.total = self._first[-1]
        self._open: dict[int, _Open] = {}
        self._due: list[tuple[float, int, int]] = []  # (arrival, session, turn)
        self._place: dict[int, tuple[int, int]] = {}  # of requests given out
        self._started = 0
        self._closed_loop = concurrency is not None
        for _ in range(min(len(sessions), concurrency or len(sessions))):
            self._start_next(0.0)

    def next_s(self) -> float | None:
        """Arrival of the next request due."""
        return self._due[0][0] if self._due else None

    def take(self) -> RequestSpec:
        """The next request."""
        time, session, turn = heapq.heappop(self._due)
        number = self._first[session] + turn
        self._place[number] = session, turn
        return replace(self._open[session].request(turn, number, time), session=session)

    def finished(self, spec: RequestSpec, now: float) -> None:
        """Whatever waited only for this answer comes after its delay."""
        session, turn = self._place.pop(spec.id)
        opened = self._open[session]
        for follower in opened.answer(turn):
            due = now + opened.session.turns[follower].delay_s
            heapq.heappush(self._due, (due, session, follower))
        if opened.left == 0:
            del self._open[session]
            if self._closed_loop and self._started < len(self._sessions):
                self._start_next(now)

    def _start_next(self, now: float) -> None:
        number = self._started
        self._started += 1
        session = self._sessions[number]
        start = now if self._closed_loop else session.arrival_s
        self._open[number] = _Open(session)
        for index, turn in enumerate(session.turns):
            if not turn.after:
                heapq.heappush(self._due, (start + turn.delay_s, number, index))


class _Open:
    """A session under way."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.left = len(session.turns)
        self._waiting = [len(set(turn.after)) for turn in session.turns]
        self._contexts: dict[int, tuple[tuple[int, ...], int]] = {}  # identities, tokens

    def request(self, turn: int, number: int, time: float) -> RequestSpec:
        """The request of ``turn``, with the identity of every full block, its answer's too."""
        asked = self.session.turns[turn]
        shared, before = self._context(asked)
        prompt = before + asked.new_tokens
        total = prompt + asked.output_tokens
        base = (_SYSTEMS + number) * _TURN_BLOCKS
        own = range(base + len(shared), base + total // BLOCK)
        self._contexts[turn] = (*shared, *own), total
        return RequestSpec(
            number, time, prompt, asked.output_tokens, self._contexts[turn][0], BLOCK
        )

    def answer(self, turn: int) -> list[int]:
        """Note that ``turn`` was answered; returns those that now wait for nothing."""
        self.left -= 1
        ready = []
        for number, other in enumerate(self.session.turns):
            if turn in other.after:
                self._waiting[number] -= 1
                if self._waiting[number] == 0:
                    ready.append(number)
        return ready

    def _context(self, turn: Turn) -> tuple[tuple[int, ...], int]:
        """Identities of the full blocks before its new tokens, and how many tokens those are."""
        if turn.continues is not None:
            return self._contexts[turn.continues]
        tokens = self.session.system_tokens
        first = self.session.system * _TURN_BLOCKS
        return tuple(range(first, first + tokens // BLOCK)), tokens
