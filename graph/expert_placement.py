"""Which rank holds which experts: in order, dealt out, or balanced with replicas of busy ones."""

from __future__ import annotations

import numpy as np

from servesim.errors import InputError, UnsupportedError
from servesim.graph.expert_load import ExpertLoad
from servesim.graph.routing import Chances

#: vLLM's ``expert_placement_strategy``.
STRATEGIES = ("linear", "round_robin")


def place_experts(
    chances: Chances,
    ranks: int,
    *,
    strategy: str = "linear",
    enable_eplb: bool = False,
    num_redundant_experts: int = 0,
) -> ExpertLoad:
    """The load of ``ranks`` that share the experts of layers with these ``chances``.

    Args:
        chances: (layers, experts).
        strategy: ``linear`` gives each rank consecutive experts, ``round_robin`` every n-th.
        enable_eplb: place by load, once it is known, instead.
        num_redundant_experts: replicas of the busiest experts of each layer, for ``enable_eplb``.

    Raises:
        UnsupportedError: experts and replicas do not divide among the ranks.
        InputError: replicas without ``enable_eplb``, or an unknown strategy.
    """
    experts = chances.shape[1]
    if num_redundant_experts and not enable_eplb:
        raise InputError("num_redundant_experts needs enable_eplb")
    if strategy not in STRATEGIES:
        raise InputError(f"expert_placement_strategy {strategy!r} is none of {STRATEGIES}")
    if (experts + num_redundant_experts) % ranks:
        replicas = f" and {num_redundant_experts} replicas" if num_redundant_experts else ""
        raise UnsupportedError(f"{experts} experts{replicas} do not divide among {ranks} ranks")
    if enable_eplb:
        layers = [_balanced(row, ranks, num_redundant_experts) for row in chances]
    else:
        order = np.arange(experts).reshape(ranks, -1)
        if strategy == "round_robin":
            order = np.arange(experts).reshape(-1, ranks).T
        layers = [row[order] for row in chances]
    return ExpertLoad(tuple(tuple(tuple(map(float, r)) for r in layer) for layer in layers))


def _balanced(chances: Chances, ranks: int, redundant: int) -> Chances:
    """(ranks, slots): chances after replicating the busiest and packing the rest evenly.

    As DeepSeek's EPLB does without groups: each further replica goes to the expert with the most
    load a replica; replicas go, the heaviest first, to the rank with the least load and room.
    """
    copies = np.ones(len(chances), dtype=np.int64)
    for _ in range(redundant):
        copies[np.argmax(chances / copies)] += 1
    slots = np.sort(np.repeat(chances / copies, copies))[::-1]
    room = len(slots) // ranks
    held: list[list[float]] = [[] for _ in range(ranks)]
    for load in slots:
        open_ranks = [rank for rank in held if len(rank) < room]
        min(open_ranks, key=sum).append(float(load))
    return np.array(held)
