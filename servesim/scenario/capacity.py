"""How much traffic a deployment takes before it misses its objective."""

from __future__ import annotations

from servesim.errors import InputError
from servesim.runtime.metrics import Slo, goodput
from servesim.runtime.workloads import WORKLOADS
from servesim.scenario.run import Result, run
from servesim.scenario.spec import Scenario

#: Doublings or halvings of the rate before giving up.
_TRIES = 20
#: Requests in the system, on average, below which they do not meet: fewer change nothing.
_ALONE = 0.05
#: Times the mean E2E that arrivals must last for a queue to show.
_LASTING = 3.0


def highest_rate(scenario: Scenario, share: float = 0.9, tolerance: float = 0.02) -> Result:
    """The run at the highest rate at which ``share`` of the requests meet the scenario's SLO.

    The rate is bracketed by doubling and found by bisection. The workload must be long enough to
    build up the queue that a rate too high leads to: hundreds of requests, better thousands.

    Args:
        tolerance: the relative width of the last bracket.

    Raises:
        InputError: there is no SLO, the workload has no rate, the share is not in (0, 1], or no
            rate meets the objective.
    """
    rate = _rate_of(scenario)
    if scenario.slo == Slo():
        raise InputError("an objective is needed: give [slo] ttft_s, tpot_s or e2e_s")
    if not 0.0 < share <= 1.0:
        raise InputError(f"the share of requests within the SLO must be in (0, 1], not {share:g}")
    best, low, high = _bracket(scenario, share, rate)
    while high > low * (1.0 + tolerance):
        middle = (low * high) ** 0.5
        found = _at(scenario, middle)
        if attained(found) >= share:
            best, low = found, middle
        else:
            high = middle
    return best


def attained(result: Result) -> float:
    """Share of all requests that finished within the SLO."""
    metrics = result.metrics
    if not metrics.request_throughput:
        return 0.0
    within = goodput(result.records.requests, result.scenario.slo) / metrics.request_throughput
    return within * metrics.finished / metrics.requests


def too_short(result: Result) -> bool:
    """Whether requests stop coming before a queue of too many could have built up."""
    arrivals = result.records.requests.column("arrival_s")
    return float(arrivals[-1] - arrivals[0]) < _LASTING * result.metrics.e2e.mean


def _bracket(scenario: Scenario, share: float, rate: float) -> tuple[Result, float, float]:
    """A run that meets the objective, its rate, and a higher rate that does not."""
    found = _at(scenario, rate)
    if attained(found) >= share:
        for _ in range(_TRIES):
            above = _at(scenario, 2.0 * rate)
            if attained(above) < share:
                return found, rate, 2.0 * rate
            found, rate = above, 2.0 * rate
        raise InputError(
            f"even {rate:g} requests/s meet the SLO: the workload is too short for it, or its"
            " max_concurrency too low"
        )
    for _ in range(_TRIES):
        rate /= 2.0
        found = _at(scenario, rate)
        if attained(found) >= share:
            return found, rate, 2.0 * rate
        if found.metrics.request_throughput * found.metrics.e2e.mean < _ALONE:  # Little's law
            break
    raise InputError(f"not even at {rate:g} requests/s do {share:.0%} of the requests meet the SLO")


def _at(scenario: Scenario, rate: float) -> Result:
    return run(scenario.changed(workload={"rate": rate}))


def _rate_of(scenario: Scenario) -> float:
    kind = scenario.workload.kind
    rate = getattr(WORKLOADS.build(kind, scenario.workload.options), "rate", None)
    if rate is None:
        raise InputError(f"the workload {kind} has no rate to vary")
    return float(rate)
