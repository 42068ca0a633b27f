"""How a benchmark's tokens fall on experts, in expectation."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Loads = npt.NDArray[np.int64]

_POWER_LAW = "power_law_"
#: Draws of a power law that are averaged.
_DRAWS = 12


class RankLoad(NamedTuple):
    """What the measured rank does: (token, expert) pairs, and experts with at least one."""

    pairs: float
    touched: float


@lru_cache(maxsize=65536)
def rank_load(
    tokens: int, experts: int, top_k: int, ranks: int, distribution: str = "uniform"
) -> RankLoad:
    """The load of the rank that a benchmark times, of ``ranks`` that share the experts.

    As AIConfigurator's benchmarks deal ``tokens``: ``balanced`` lets tokens walk over the experts
    in strides and times the first rank; a power law draws the loads of experts and times the
    busiest rank. Any other distribution draws ``top_k`` experts a token; ranks are alike.
    """
    if distribution == "balanced":
        loads = _balanced(tokens, experts, top_k)[: experts // ranks]
        return RankLoad(float(loads.sum()), float((loads > 0).sum()))
    if not distribution.startswith(_POWER_LAW):
        touched = 1.0 - (1.0 - top_k / experts) ** tokens
        return RankLoad(tokens * top_k / ranks, experts / ranks * touched)
    power = float(distribution.removeprefix(_POWER_LAW))
    rng = np.random.default_rng(0)
    busiest = []
    for _ in range(_DRAWS):
        by_rank = _settled(_drawn(tokens, experts, top_k, power, rng), tokens, top_k, ranks)
        busiest.append(by_rank[by_rank.sum(axis=1).argmax()])
    loads = np.array(busiest)
    return RankLoad(float(loads.sum(axis=1).mean()), float((loads > 0).sum(axis=1).mean()))


def _balanced(tokens: int, experts: int, top_k: int) -> Loads:
    """Tokens of each expert: a token takes every ``stride``-th one, from one further each time."""
    stride = math.ceil(experts / top_k)
    steps = np.arange(tokens, dtype=float)
    first = steps if tokens >= stride else np.floor(steps * stride / tokens)
    chosen = (first[:, None] + stride * np.arange(top_k)[None, :]).astype(np.int64) % experts
    return np.bincount(chosen.ravel(), minlength=experts)


def _drawn(
    tokens: int, experts: int, top_k: int, power: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Loads of a density x^-power, from 1 to 0.8·tokens when there are more pairs than experts,
    from 0.01 to 2 otherwise; they add up to all pairs."""
    low, high = (1.0, max(2.0, 0.8 * tokens)) if tokens * top_k > experts else (0.01, 2.0)
    u, left = rng.random(experts), 1.0 - power
    if abs(left) < 1e-9:
        loads = low * (high / low) ** u
    else:
        loads = ((high**left - low**left) * u + low**left) ** (1.0 / left)
    return np.asarray(loads / loads.sum() * tokens * top_k)


def _settled(loads: npt.NDArray[np.float64], tokens: int, top_k: int, ranks: int) -> Loads:
    """Whole tokens an expert, at most all of them; what rounding lost or gained is dealt out.

    Ranks take turns: each gives to its least loaded expert, or takes from its most loaded one.
    """
    by_rank = np.minimum(tokens, np.round(loads)).astype(np.int64).reshape(ranks, -1)
    lost = tokens * top_k - int(by_rank.sum())
    turn = idle = 0
    while lost and idle < ranks:
        rank = by_rank[turn % ranks]
        step = 1 if lost > 0 else -1
        expert = rank.argmin() if step > 0 else rank.argmax()
        if 0 <= rank[expert] + step <= tokens:
            rank[expert] += step
            lost -= step
            idle = 0
        else:
            idle += 1
        turn += 1
    return by_rank
