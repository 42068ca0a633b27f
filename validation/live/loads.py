"""The loads that every architecture is run under."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servesim.registry import called

#: Arrival in seconds, prompt token ids, output tokens.
Request = tuple[float, list[int], int]


@dataclass(frozen=True, slots=True)
class Load:
    """Poisson arrivals of prompts of random tokens.

    Attributes:
        utilisation: rate of arrivals as a share of what the engine completes when flooded.
        prompt_tokens, output_tokens: least and most, evenly drawn.
    """

    name: str
    utilisation: float
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]

    def requests(self, rate: float, count: int, vocabulary: int) -> list[Request]:
        """``count`` requests at ``rate`` a second; equal arguments give equal requests."""
        rng = np.random.default_rng([len(self.name), *self.name.encode()])
        arrivals = np.cumsum(rng.exponential(1 / rate, count))
        arrivals -= arrivals[0]
        prompts = rng.integers(*self.prompt_tokens, count, endpoint=True)
        outputs = rng.integers(*self.output_tokens, count, endpoint=True)
        return [
            (float(at), rng.integers(3, vocabulary, size=tokens).tolist(), int(answer))
            for at, tokens, answer in zip(arrivals, prompts, outputs, strict=True)
        ]

    def flood(self, count: int, vocabulary: int) -> list[Request]:
        """``count`` requests at once: what they take tells what the engine can do."""
        return [(0.0, prompt, n) for _, prompt, n in self.requests(1.0, count, vocabulary)]


#: Light: rarely any queue. Busy: near saturation. KV-bound: more answers in flight than the KV
#: cache holds, so that requests are preempted.
LOADS = (
    Load("light", 0.3, (32, 256), (16, 64)),
    Load("busy", 0.85, (32, 256), (16, 64)),
    Load("kv-bound", 1.6, (64, 128), (192, 320)),
)


def load_called(name: str) -> Load:
    """The load called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    return called("load", name, LOADS)
