"""How flows share links: the max-min fair allocation.

No flow can get more without taking from one that has no more than it. Found by progressive
filling (Bertsekas, Gallager: Data Networks, 2nd ed. 1992, section 6.5.2): all rates grow alike;
when a link is full, the flows through it keep what they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def fair_rates(routes: Sequence[Sequence[int]], capacity: Mapping[int, float]) -> list[float]:
    """The rate of each flow, in the unit of ``capacity``.

    Args:
        routes: the links that each flow crosses, at least one.
        capacity: of each link.
    """
    rates = [0.0] * len(routes)
    through: dict[int, list[int]] = {}  # link -> flows not yet settled
    for flow, route in enumerate(routes):
        for link in dict.fromkeys(route):
            through.setdefault(link, []).append(flow)
    left = {link: capacity[link] for link in through}
    while through:
        narrowest = min(through, key=lambda link: left[link] / len(through[link]))
        rate = max(left[narrowest], 0.0) / len(through[narrowest])
        for flow in through[narrowest].copy():
            rates[flow] = rate
            for link in dict.fromkeys(routes[flow]):
                left[link] -= rate
                through[link].remove(flow)
                if not through[link]:
                    del through[link]
    return rates
