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
        prefixes: how many prefixes there are, one of which stands before each prompt.
        prefix_tokens: tokens of a prefix.
    """

    name: str
    utilisation: float
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    prefixes: int = 0
    prefix_tokens: int = 0

    def requests(self, rate: float, count: int, vocabulary: int) -> list[Request]:
        """``count`` requests at ``rate`` a second; equal arguments give equal requests."""
        rng = np.random.default_rng([len(self.name), *self.name.encode()])
        arrivals = np.cumsum(rng.exponential(1 / rate, count))
        arrivals -= arrivals[0]
        prompts = rng.integers(*self.prompt_tokens, count, endpoint=True)
        outputs = rng.integers(*self.output_tokens, count, endpoint=True)
        drawn = [
            (float(at), rng.integers(3, vocabulary, size=tokens).tolist(), int(answer))
            for at, tokens, answer in zip(arrivals, prompts, outputs, strict=True)
        ]
        if not self.prefixes:
            return drawn
        heads = rng.integers(3, vocabulary, size=(self.prefixes, self.prefix_tokens)).tolist()
        which = rng.integers(self.prefixes, size=count)
        return [
            (at, heads[i] + prompt, answer)
            for i, (at, prompt, answer) in zip(which, drawn, strict=True)
        ]

    def flood(self, count: int, vocabulary: int) -> list[Request]:
        """``count`` requests at once: what they take tells what the engine can do."""
        return [(0.0, prompt, n) for _, prompt, n in self.requests(1.0, count, vocabulary)]


#: Light: rarely any queue. Busy: near saturation. KV-bound: more answers in flight than the KV
#: cache holds, so that requests are preempted. Shared prefix: most of each prompt is one of a few.
LOADS = (
    Load("light", 0.3, (32, 256), (16, 64)),
    Load("busy", 0.85, (32, 256), (16, 64)),
    Load("kv-bound", 1.6, (64, 128), (192, 320)),
)
SHARED_PREFIX = Load("shared-prefix", 0.85, (32, 192), (16, 64), prefixes=4, prefix_tokens=640)


def load_called(name: str) -> Load:
    """The load called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    return called("load", name, (*LOADS, SHARED_PREFIX))
