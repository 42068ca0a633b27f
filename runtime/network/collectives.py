"""Collectives as rounds of transfers, timed on any network with contention.

The algorithms are those of Thakur, Rabenseifner, Gropp: Optimization of Collective Communication
Operations in MPICH (2005), and their two-level forms. A round begins when the one before it has
arrived everywhere. Payloads are counted as in ``CollectiveWork``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from servesim.errors import UnknownNameError
from servesim.runtime.network.fabric import Fabric
from servesim.runtime.network.flows import Network

#: From, to, bytes.
Send = tuple[str, str, float]
Rounds = list[list[Send]]


def ring_pass(nodes: Sequence[str], payload: float) -> Rounds:
    """All-gather or reduce-scatter: n - 1 rounds in which each sends a share to the next."""
    count = len(nodes)
    share = payload / count
    return [[(a, nodes[(i + 1) % count], share) for i, a in enumerate(nodes)]] * (count - 1)


def direct(nodes: Sequence[str], payload: float) -> Rounds:
    """One round in which each sends every other a share of ``payload``."""
    share = payload / len(nodes)
    return [[(a, b, share) for a in nodes for b in nodes if a != b]]


def broadcast(nodes: Sequence[str], payload: float) -> Rounds:
    """A binomial tree: those who have it double in every round."""
    rounds, have = [], 1
    while have < len(nodes):
        pairs = zip(nodes[:have], nodes[have : 2 * have], strict=False)
        rounds.append([(a, b, payload) for a, b in pairs])
        have *= 2
    return rounds


def reduce(nodes: Sequence[str], payload: float) -> Rounds:
    """A broadcast backwards."""
    return [[(b, a, size) for a, b, size in sends] for sends in reversed(broadcast(nodes, payload))]


def hierarchical(nodes: Sequence[str], payload: float, group: int) -> Rounds:
    """All-reduce on two levels: scatter inside groups of ``group`` neighbours, rings of those with
    the same share across groups, gather inside."""
    groups = [nodes[i : i + group] for i in range(0, len(nodes), group)]
    inside = _together([ring_pass(one, payload) for one in groups])
    peers = [list(one) for one in zip(*groups, strict=True)]
    share = payload / group
    across = _together([ring_pass(one, share) for one in peers])
    return [*inside, *across, *across, *inside]


#: Algorithms by operation and name.
ALGORITHMS: Mapping[str, Mapping[str, Callable[[Sequence[str], float], Rounds]]] = {
    "all_reduce": {
        "ring": lambda nodes, payload: ring_pass(nodes, payload) * 2,
        "tree": lambda nodes, payload: reduce(nodes, payload) + broadcast(nodes, payload),
        "one_shot": lambda nodes, payload: direct(nodes, payload * len(nodes)),
        "two_shot": lambda nodes, payload: direct(nodes, payload) * 2,
    },
    "all_gather": {"ring": ring_pass, "direct": direct},
    "reduce_scatter": {"ring": ring_pass, "direct": direct},
    "all_to_all": {"direct": direct},
    "broadcast": {"tree": broadcast},
    "send": {"direct": lambda nodes, payload: [[(nodes[0], nodes[1], payload)]]},
}


def rounds_of(
    operation: str, algorithm: str, nodes: Sequence[str], payload: float, group: int = 1
) -> Rounds:
    """The transfers of a collective.

    Args:
        group: neighbours of the first level of ``hierarchical``.

    Raises:
        UnknownNameError: no such operation or algorithm.
    """
    if operation not in ALGORITHMS:
        raise UnknownNameError("collective", operation, ALGORITHMS)
    if operation == "all_reduce" and algorithm == "hierarchical":
        return hierarchical(nodes, payload, group)
    if algorithm not in ALGORITHMS[operation]:
        raise UnknownNameError(f"algorithm of {operation}:", algorithm, ALGORITHMS[operation])
    return ALGORITHMS[operation][algorithm](nodes, payload)


def seconds(fabric: Fabric, rounds: Rounds) -> float:
    """How long the rounds take, one after another, alone on the network."""
    known: dict[tuple[Send, ...], float] = {}
    total = 0.0
    for sends in rounds:
        key = tuple(sends)
        if key not in known:
            known[key] = _round_seconds(fabric, sends)
        total += known[key]
    return total


def _round_seconds(fabric: Fabric, sends: Sequence[Send]) -> float:
    network, last = Network(fabric), 0.0
    for start, end, size in sends:
        network.start(0.0, start, end, size)
    while (now := network.next_sent_s()) < math.inf:
        for flow in network.take_sent(now):
            last = max(last, now + flow.path.latency_s)
    return last


def _together(several: Sequence[Rounds]) -> Rounds:
    """Rounds of several collectives at the same time."""
    return [[send for sends in at_once for send in sends] for at_once in zip(*several, strict=True)]
