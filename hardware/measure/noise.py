"""What repeats say: the time of a kernel, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

#: Fewest rounds before a kernel counts as known, and most before it is left as it is.
FEWEST, MOST = 3, 9
#: Relative noise below which a kernel is not repeated any more.
QUIET = 0.02


@dataclass(frozen=True, slots=True)
class Estimate:
    """A kernel's time over several rounds, interleaved with all other kernels.

    Attributes:
        seconds: median of the rounds, each the median of its calls.
        noise: relative uncertainty of ``seconds``: median deviation of the rounds, over the root
            of how many there are (1 where there is only one).
        rounds: how many.
    """

    seconds: float
    noise: float
    rounds: int

    @property
    def settled(self) -> bool:
        """Whether another round would hardly change it, or enough were tried."""
        return self.rounds >= MOST or (self.rounds >= FEWEST and self.noise <= QUIET)


def estimate(rounds: Sequence[float]) -> Estimate:
    """From the seconds of each round (at least one)."""
    middle = median(rounds)
    if len(rounds) == 1:
        return Estimate(middle, 1.0, 1)
    # 1.48 times the median deviation is a standard deviation; 1.25 of that over the root, the
    # median's own (both for normal noise).
    deviation = 1.48 * median(abs(x - middle) for x in rounds)
    return Estimate(middle, 1.25 * deviation / middle / len(rounds) ** 0.5, len(rounds))
