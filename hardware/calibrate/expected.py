"""How many experts a benchmark's batch touches, in expectation."""

from __future__ import annotations

import math


def touched_experts(tokens: int, experts: int, top_k: int, local: int, distribution: str) -> float:
    """Local experts that get at least one of ``tokens`` tokens.

    ``balanced`` deals pairs round. A power law rounds the load of each expert and gives what
    rounding lost to experts without any. Any other distribution draws ``top_k`` experts a token.
    """
    pairs = tokens * top_k
    if distribution == "balanced":
        return min(experts, pairs) * local / experts
    if not distribution.startswith("power_law_"):
        return local * (1.0 - (1.0 - top_k / experts) ** tokens)
    loads = [share * pairs for share in expert_shares(tokens, experts, top_k, distribution)]
    rounded = [min(tokens, math.floor(load + 0.5)) for load in loads]
    lost = max(0, pairs - sum(rounded))
    touched = min(experts, sum(load > 0 for load in rounded) + lost)
    return touched * local / experts


def expert_shares(tokens: int, experts: int, top_k: int, distribution: str) -> list[float]:
    """Share of all (token, expert) pairs of each expert, largest first.

    ``power_law_a``: loads are the quantiles of a density x^-a, from 1 to 0.8·tokens when there
    are more pairs than experts, from 0.01 to 2 otherwise, as AIConfigurator's benchmark draws
    them.
    """
    power = 1.0 - float(distribution.removeprefix("power_law_"))
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > experts else (0.01, 2.0)
    high = max(high, 2.0 * low)
    loads = []
    for i in range(experts):
        u = 1.0 - (i + 0.5) / experts
        if abs(power) < 1e-9:
            loads.append(low * math.exp(u * math.log(high / low)))
        else:
            loads.append(((high**power - low**power) * u + low**power) ** (1.0 / power))
    total = sum(loads)
    return [load / total for load in loads]
