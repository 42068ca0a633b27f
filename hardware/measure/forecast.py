"""How long measuring takes, and what is left out where that is too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from servesim.graph.work import Work
from servesim.hardware.measure.noise import FEWEST, Estimate
from servesim.hardware.measure.plan import Group, thinned
from servesim.hardware.measure.probes import Probe

#: Seconds a kernel costs beside its calls: making operands, in a group of many, and on a GPU
#: capturing them; and what its calls take at least.
_SETUP_S, _CALLS_S = 0.02, 0.012


@dataclass(frozen=True, slots=True)
class Speed:
    """FLOP/s and bytes/s of a device, as far as a forecast needs them."""

    flops: float
    bandwidth: float


#: Where nothing was measured yet: one core of a server, and a GPU of its day.
USUAL = {"cpu": Speed(1e11, 1e10), "cuda": Speed(500e12, 2e12)}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What measuring one kind of operator takes.

    Attributes:
        operators, kernels: distinct ones.
        seconds: of the fewest rounds.
    """

    kind: str
    operators: int
    kernels: int
    seconds: float


def forecast(groups: Sequence[Group], speed: Speed) -> list[Forecast]:
    """By kind of operator, in the order in which they are met."""
    kinds: dict[str, list[Group]] = {}
    for group in groups:
        kinds.setdefault(group.family, []).append(group)
    return [
        Forecast(kind, len(found), sum(len(g.works) for g in found), _rounds(found, speed))
        for kind, found in kinds.items()
    ]


def reached(peaks: Mapping[Probe, Estimate]) -> Speed:
    """What probes reached."""
    usual = USUAL["cpu"]
    flops = [p.amount / e.seconds for p, e in peaks.items() if p.what == "arithmetic"]
    rates = [p.amount / e.seconds for p, e in peaks.items() if p.what == "read"]
    return Speed(max(flops, default=usual.flops), min(rates, default=usual.bandwidth))


def affordable(groups: Sequence[Group], speed: Speed, seconds: float) -> list[Group]:
    """``groups``, every second size left out until the fewest rounds fit into ``seconds``."""
    kept = list(groups)
    for _ in range(3):
        if _rounds(kept, speed) <= seconds:
            break
        kept = thinned(kept)
    return kept


def _rounds(groups: Sequence[Group], speed: Speed) -> float:
    return FEWEST * sum(_cost(work, speed) for g in groups for work in g.works.values())


def _cost(work: Work, speed: Speed) -> float:
    """Seconds that a round of ``work`` takes, roughly: half the peaks are reached."""
    moved = work.bytes_read + work.bytes_written
    once = 2.0 * max(work.flops / speed.flops, moved / speed.bandwidth)
    return _SETUP_S + max(_CALLS_S, 5.0 * once)
