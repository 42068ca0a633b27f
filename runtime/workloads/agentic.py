"""Agents: tool calls between turns, contexts that grow, sub-agents that fan out and join."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servesim.errors import InputError
from servesim.runtime.lengths import LengthOption, lengths, require_positive
from servesim.runtime.sessions import Session, SessionSource, Turn
from servesim.runtime.streams import stream
from servesim.runtime.workloads import WORKLOADS


@WORKLOADS.register("agentic")
@dataclass(frozen=True, kw_only=True)
class Agentic:
    """Sessions of an agent that asks, waits for a tool, and asks again with all it has so far.

    Attributes:
        num_sessions: how many.
        rate: sessions that start per second, at random.
        concurrency: sessions under way at all times, in place of ``rate``.
        turns: requests of the agent itself in a session.
        prompt_tokens: of the first, beyond the system prompt.
        new_tokens: that each later one adds: what the tool gave, or the user.
        output_tokens: of each answer.
        tool_time_s: mean time between an answer and the next request; exponential.
        fan_out: sub-agents that the first answer starts, each with the agent's context.
        sub_turns: requests of a sub-agent; the agent's next request waits for all of them, and
            takes up their last answers.
        system_tokens: of the system prompt that all sessions share.
        seed: fixes everything random.
    """

    num_sessions: int = 100
    rate: float = 1.0
    concurrency: int | None = None
    turns: LengthOption = 6
    prompt_tokens: LengthOption = 512
    new_tokens: LengthOption = 256
    output_tokens: LengthOption = 128
    tool_time_s: float = 1.0
    fan_out: int = 0
    sub_turns: LengthOption = 2
    system_tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive("num_sessions", self.num_sessions)
        require_positive("rate", self.rate)
        if self.concurrency is not None:
            require_positive("concurrency", self.concurrency)
        for name in ("tool_time_s", "fan_out", "system_tokens", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, not {getattr(self, name)}")
        for option in (self.turns, self.prompt_tokens, self.new_tokens, self.sub_turns):
            lengths(option)
        lengths(self.output_tokens)

    def source(self) -> SessionSource:
        """The requests as answers allow them."""
        return SessionSource(self.sessions(), self.concurrency)

    def sessions(self) -> list[Session]:
        """The drawn sessions."""
        starts = np.cumsum(
            stream(self.seed, "sessions").exponential(1 / self.rate, self.num_sessions)
        )
        draw = _Draws(self)
        return [
            Session(float(start), tuple(self._turns(draw)), self.system_tokens) for start in starts
        ]

    def _turns(self, draw: _Draws) -> list[Turn]:
        found = [Turn(draw("prompt_tokens"), draw("output_tokens"))]
        gathered, waits = 0, [0]
        for _ in range(self.fan_out):
            agent = 0
            for _ in range(draw("sub_turns")):
                found.append(draw.turn(agent, (agent,)))
                agent = len(found) - 1
            gathered += found[agent].output_tokens
            waits.append(agent)
        agent = 0
        for _ in range(draw("turns") - 1):
            found.append(draw.turn(agent, tuple(waits), gathered))
            agent, gathered = len(found) - 1, 0
            waits = [agent]
        return found


class _Draws:
    """Numbers of the options, each from a stream of its own."""

    def __init__(self, options: Agentic) -> None:
        names = ("turns", "prompt_tokens", "new_tokens", "output_tokens", "sub_turns")
        self._drawn = {
            name: (lengths(getattr(options, name)), stream(options.seed, name)) for name in names
        }
        self._tool_time_s = options.tool_time_s
        self._delays = stream(options.seed, "tool_time_s")

    def __call__(self, name: str) -> int:
        distribution, rng = self._drawn[name]
        return int(distribution.sample(rng, 1)[0])

    def turn(self, continues: int, after: tuple[int, ...], gathered: int = 0) -> Turn:
        """A turn that goes on with another's context, after a tool."""
        return Turn(
            new_tokens=self("new_tokens") + gathered,
            output_tokens=self("output_tokens"),
            continues=continues,
            after=after,
            delay_s=float(self._delays.exponential(self._tool_time_s)),
        )
