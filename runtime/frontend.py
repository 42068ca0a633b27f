"""The server in front of the engines: what it adds between a client and an engine.

An OpenAI-compatible server parses and tokenises a request, hands it to the engine's process, and
turns each token into text and an event of its stream. Clients that stamp what they see include it;
an engine's own statistics do not.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from servesim.errors import InputError

#: A day: no server is that slow.
_LONGEST_S = 86400.0


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """Seconds that the server adds.

    Attributes:
        request_s: from a request's arrival until it is with the engine, whatever its length.
        prompt_token_s: more for each token of its prompt.
        response_s: from the end of a step until its token is with the client.
        token_s: more for each answer that a step goes on with: one event loop makes text and an
            event of each in turn, those that begin last, and starts on a step's when it is through
            with those before.
        api_server_count: requests that are taken at the same time; others wait for their turn.
            Those beyond one for each engine share in its answers.

    Raises:
        InputError: a time that is negative or without end, or nobody who takes requests.
    """

    request_s: float = 0.0
    prompt_token_s: float = 0.0
    response_s: float = 0.0
    token_s: float = 0.0
    api_server_count: int = 1

    def __post_init__(self) -> None:
        for name in ("request_s", "prompt_token_s", "response_s", "token_s"):
            if not 0 <= (value := getattr(self, name)) <= _LONGEST_S:
                raise InputError(
                    f"[frontend] {name} must be from 0 to {_LONGEST_S:g} seconds, not {value:g}"
                )
        if self.api_server_count < 1:
            raise InputError(
                f"[frontend] api_server_count must be at least 1, not {self.api_server_count}"
            )

    def takes_s(self, prompt_tokens: int) -> float:
        """Seconds until a request that nobody is ahead of is with the engine."""
        return self.request_s + self.prompt_token_s * prompt_tokens


#: vLLM's server, a stream a request. Measured (``validation/live/passages.py``): vLLM 0.32, AMD
#: EPYC (Zen 5), prompts of 32 to 2048 random tokens, 3 a second, 2026-11-24; ``token_s``: the CPU
#: time of the server's process over the tokens it streamed, 64 and 100 answers at a time.
VLLM = FrontEnd(request_s=3.4e-3, prompt_token_s=1.7e-6, response_s=1.8e-3, token_s=3.3e-5)


class Desk:
    """Takes requests in the order they come, as many at a time as there are servers."""

    def __init__(self, frontend: FrontEnd) -> None:
        self._frontend = frontend
        self._free_s: list[float] = []  # a heap: when each server that took any is free

    def through(self, arrival_s: float, prompt_tokens: int) -> float:
        """When a request that arrives now, after all others so far, is with the engine."""
        takes_s = self._frontend.takes_s(prompt_tokens)
        if len(self._free_s) < self._frontend.api_server_count:
            end = arrival_s + takes_s
            heapq.heappush(self._free_s, end)
        else:
            end = max(arrival_s, self._free_s[0]) + takes_s
            heapq.heapreplace(self._free_s, end)
        return end


class Outlet:
    """Hands out the answers that an engine's steps go on with, one after another."""

    def __init__(self, token_s: float = 0.0) -> None:
        self._token_s = token_s
        self._free_s = 0.0

    @classmethod
    def of(cls, frontend: FrontEnd, engines: int) -> Outlet:
        """For one of so many engines behind ``frontend``.

        Each engine has at least one server that hands out its answers: one server and four engines
        are four event loops.
        """
        return cls(frontend.token_s / max(1.0, frontend.api_server_count / engines))

    def late_s(self, end_s: float, answers: int) -> float:
        """Seconds after ``end_s``, when a step ends, that the last of its answers is out."""
        if not self._token_s:
            return 0.0
        self._free_s = max(self._free_s, end_s) + self._token_s * answers
        return self._free_s - end_s
