"""What expert slots hold: closed forms against caches that are simulated token by token."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servesim.errors import UnknownNameError
from servesim.graph.expert_cache import ExpertCache, Floats
from servesim.graph.routing.uniform import Uniform
from servesim.graph.routing.zipf import Zipf

EXPERTS, TOP_K = 32, 4


def cache(chances: Floats, slots: int, policy: str = "lru") -> ExpertCache:
    return ExpertCache(chances, np.ones(len(chances)), slots, policy)


class Simulated:
    """Slots of one layer in front of random draws of ``TOP_K`` different experts a token."""

    def __init__(self, chances: Floats, slots: int, policy: str) -> None:
        self.clocks = -1 / np.log1p(-chances)  # exponential clocks that give these chances
        self.slots, self.policy = slots, policy
        self.used = np.zeros(len(chances))  # when last, or how often
        self.held: set[int] = set()
        self.now = 0
        self.rng = np.random.default_rng(1)

    def step(self, tokens: int) -> tuple[int, int]:
        """Experts touched and missed; the cache is as before while they are looked up."""
        rings = self.rng.exponential(self.clocks, (tokens, len(self.clocks)))
        chosen = np.argsort(rings, axis=1)[:, :TOP_K]
        touched = {int(i) for row in chosen for i in row}
        missed = touched - self.held
        for row in chosen:
            for expert in row:
                self.now += 1
                self.used[expert] = self.now if self.policy == "lru" else self.used[expert] + 1
        best = sorted(self.held | touched, key=lambda i: -self.used[i])
        self.held = set(best[: self.slots])
        return len(touched), len(missed)

    def missed(self, tokens: int, steps: int) -> float:
        """Mean of a step, once the cache is warm."""
        for _ in range(max(200, 2000 // tokens)):
            self.step(tokens)
        return float(np.mean([self.step(tokens)[1] for _ in range(steps)]))


@pytest.mark.parametrize("policy", ["lru", "lfu"])
@pytest.mark.parametrize("exponent", [0.0, 0.9])
@pytest.mark.parametrize(("slots", "tokens"), [(8, 1), (16, 1), (16, 6), (24, 6), (8, 40)])
def test_misses_are_those_of_a_simulated_cache(
    policy: str, exponent: float, slots: int, tokens: int
) -> None:
    chances = Zipf(exponent).chances(1, EXPERTS, TOP_K)
    (found,) = cache(chances, slots, policy).misses(tokens)
    expected = Simulated(chances[0], slots, policy).missed(tokens, 1200)
    assert found.missed == pytest.approx(expected, rel=0.04, abs=0.05)


def test_uniform_popularity_hits_in_proportion() -> None:
    # Of E equal experts with N slots, N/E are there, whatever the policy.
    for policy in ("lru", "lfu", "static"):
        (found,) = cache(Uniform().chances(1, EXPERTS, TOP_K), 12, policy).misses(5)
        touched = EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** 5)
        assert found.touched == pytest.approx(touched)
        assert found.missed == pytest.approx(touched * 20 / 32)
        assert found.pairs == pytest.approx(5 * TOP_K * 20 / 32)


def test_the_most_popular_by_hand() -> None:
    chances = np.array([[0.9, 0.6, 0.3, 0.2]])
    (found,) = cache(chances, 2, "static").misses(1)
    assert found.missed == pytest.approx(0.3 + 0.2)
    assert found.any == pytest.approx(1 - 0.7 * 0.8)
    (late,) = cache(chances, 2, "static").misses(1, late=0.5)
    assert late.missed == pytest.approx(0.25)
    assert late.any == pytest.approx(1 - 0.85 * 0.9)


@settings(max_examples=60, deadline=None)
@given(
    exponent=st.floats(0.0, 2.0),
    tokens=st.integers(1, 300),
    policy=st.sampled_from(["lru", "lfu"]),
    top_k=st.integers(1, 8),
)
def test_more_slots_never_miss_more(exponent: float, tokens: int, policy: str, top_k: int) -> None:
    chances = Zipf(exponent).chances(1, 16, top_k)
    found = [cache(chances, slots, policy).misses(tokens)[0] for slots in range(17)]
    assert found[0].missed == pytest.approx(found[0].touched)
    assert found[-1].missed == found[-1].any == 0.0
    for few, more in itertools.pairwise(found):
        assert more.missed <= few.missed + 1e-9
        assert more.any <= few.any + 1e-9
    uniform = Uniform().chances(1, 16, top_k)
    for slots, skewed in enumerate(found):
        even = cache(uniform, slots, policy).misses(tokens)[0]
        assert skewed.missed <= even.missed * (1 + 1e-9) + 1e-9


def test_slots_are_full() -> None:
    chances = Zipf(1.1).chances(3, 64, 6)
    for policy in ("lru", "lfu", "static"):
        assert cache(chances, 20, policy).resident.sum(axis=1) == pytest.approx([20.0] * 3)


def test_experts_that_no_token_goes_to_take_no_slot() -> None:
    chances = np.array([[0.5, 0.5, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
    found = cache(chances, 3)
    assert found.resident[0] == pytest.approx([1, 1, 1, 0])
    assert found.resident[1].sum() == pytest.approx(3)


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'lru'"):
        cache(Uniform().chances(1, 8, 2), 2, "lur")
