"""The instance that keeps best within what a request may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from servesim.errors import InputError
from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot


@ROUTERS.register("slo_aware")
@dataclass(frozen=True)
class SloAware:
    """The smallest share used up of the objectives, by estimates of TTFT and TPOT there.

    Attributes:
        ttft_s, tpot_s: objectives.

    Raises:
        InputError: an objective that is not positive.
    """

    needs: ClassVar[tuple[str, ...]] = ("ttft_s", "tpot_s")
    ttft_s: float = 1.0
    tpot_s: float = 0.05

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """The instance that is furthest from failing either objective."""

        def used(i: int) -> tuple[float, int]:
            one = instances[i]
            return max(one.ttft_s / self.ttft_s, one.tpot_s / self.tpot_s), one.load

        return min(range(len(instances)), key=used)
