"""The placement of the least step time, found by a search over the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from servesim.errors import CapacityError
from servesim.graph.opgraph import OpGraph
from servesim.hardware.estimate import Estimate
from servesim.hardware.placers import (
    PLACERS,
    ROUNDING,
    Placed,
    Site,
    by_layers,
    require_within,
    typical_step,
)
from servesim.hardware.placers.greedy import Greedy
from servesim.hardware.search import Search

#: Shares of the other devices' time that searches hope to hide where parts of a batch overlap.
_HIDDEN = (0.5, 1.0)


@PLACERS.register("min_cost")
@dataclass(frozen=True)
class MinCost:
    """For steps of ``decodes`` decodes of ``context`` tokens beside ``prefill_tokens`` of a prompt.

    Found for operators one after another, where it is exact (``Search``), then scheduled over
    devices and links as steps are, beside the answers of searches that hope for overlap, of
    ``greedy``, and all on the default device; the fastest is taken, and of equal ones the simplest.

    Attributes:
        share: of each memory, for weights and the KV cache of such a step.
    """

    fills_memory: ClassVar[bool] = True

    decodes: int = 64
    context: int = 1024
    prefill_tokens: int = 0
    share: float = 0.8

    def __post_init__(self) -> None:
        require_within("share", self.share, 0, 1)

    def place(self, graph: OpGraph, site: Site) -> Placed:
        """Where each operator runs.

        Raises:
            CapacityError: no placement was found that fits.
        """
        batch = typical_step(self.decodes, self.context, self.prefill_tokens)
        room = {name: self.share * d.memory.capacity_bytes for name, d in site.devices.items()}
        beside = graph.weight_bytes - graph.operator_weight_bytes
        room[site.default] += site.outside_bytes - max(beside, 0.0)
        hidden = (0.0, *(_HIDDEN if site.parts > 1 else ()))
        searches = [Search(Estimate(graph, site, batch, share), room) for share in hidden]
        best, least = None, float("inf")
        for placed in self._candidates(graph, site, searches):
            if searches[0].fits(placed):
                seconds = site.step(site.placement(placed), batch)
                if seconds < least * (1 - ROUNDING):
                    best, least = placed, seconds
        if best is None:
            raise CapacityError(f"{graph.model}: found no placement that fits")
        return best

    def _candidates(self, graph: OpGraph, site: Site, searches: list[Search]) -> Iterator[Placed]:
        """Placements to compare, the simplest first."""
        yield by_layers(graph, site, lambda layer: site.default)
        greedy = Greedy(self.decodes, self.context, self.share)
        ways = (lambda: greedy.place(graph, site), *(search.best for search in searches))
        for way in ways:
            with suppress(CapacityError):
                yield way()
