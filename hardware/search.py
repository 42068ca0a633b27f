"""The placement of a graph that takes least time within the memories: dynamic programming.

First along the operators of a layer, then along the layers with the device of the stream as
state. Of each state those ways are kept that are not beaten in time and in bytes held. So, for
operators one after another, the answer is exact as long as no state has more than ``OF_LAYER`` and
``OF_LAYERS`` of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

from servesim.errors import CapacityError
from servesim.graph.opgraph import Block
from servesim.hardware.estimate import Estimate
from servesim.hardware.frontier import OF_LAYERS, Way, kept
from servesim.hardware.layer_search import Ends, LayerSearch
from servesim.hardware.placers import ROUNDING, Placed, divided

#: A layer of a block; None for what is outside the layers.
Slot = tuple[Block, int | None]


@dataclass(frozen=True)
class Search:
    """Finds the placement of the least estimated time.

    Attributes:
        room: bytes that weights and KV cache may take, by device.
    """

    estimate: Estimate
    room: dict[str, float]

    def best(self) -> Placed:
        """The placement.

        Raises:
            CapacityError: none was found that fits.
        """
        ways = [Way(0.0, (0.0,) * len(self._limits))]
        slots = list(self._slots())
        for i, (block, _) in enumerate(slots):
            by_end: dict[str, list[Way]] = {}
            for before in ways:
                for way in self._ways(block, before if i else None):
                    by_end.setdefault(way.devices[-1], []).extend(self._joined(before, way))
            limits = tuple(self._limits.values())
            ways = [way for end in by_end.values() for way in kept(end, limits, OF_LAYERS)]
        if not ways:
            raise CapacityError(f"{self.estimate.graph.model}: found no placement that fits")
        return self._placed(slots, min(ways, key=partial(self._whole, slots[-1][0])))

    def fits(self, placed: Placed) -> bool:
        """Whether ``placed`` keeps within the memories."""
        taken = dict.fromkeys(self.room, 0.0)
        for block in placed.graph.blocks:
            for op, held in zip(block.ops, self.estimate.held(block), strict=True):
                name = placed.where.get((block.name, op.name), self.estimate.site.default)
                taken[name] += held * block.count
        return all(taken[name] <= room * (1 + ROUNDING) for name, room in self.room.items())

    def _slots(self) -> Iterator[Slot]:
        """Blocks in the order in which they run, each layer on its own."""
        blocks = self.estimate.graph.blocks
        owner = {layer: block for block in blocks for layer in block.layers}
        layered = False
        for block in blocks:
            if not block.layers:
                yield block, None
            elif not layered:
                layered = True
                yield from ((owner[layer], layer) for layer in sorted(owner))

    def _whole(self, last: Block, way: Way) -> float:
        """Seconds of ``way``, and to bring what ``last`` made to where a stage hands it on."""
        site = self.estimate.site
        if not site.hands_on:
            return way.seconds
        payload = self.estimate.result(last.ops[-1])
        sent = self.estimate.transfer(way.devices[-1], site.default, payload)
        return float("inf") if sent is None else way.seconds + sent

    def _ways(self, block: Block, before: Way | None) -> list[Way]:
        """Ways to place a layer of ``block`` behind ``before``; the first layer behind nothing.

        Without an embedding before it, it reads what the default device was handed, or what it
        made itself in the pass before.
        """
        site, options = self.estimate.site, self._options[block.name]
        if before is not None:
            entry: str | None = before.devices[-1]
        elif block.layers and not site.handed:
            return [way for (start, end), ways in options.items() if start == end for way in ways]
        else:
            entry = site.default if block.layers else None
        return [way for (start, _), ways in options.items() if start == entry for way in ways]

    def _joined(self, before: Way, way: Way) -> Iterator[Way]:
        """``way`` behind ``before``, if it fits."""
        held = tuple(a + b for a, b in zip(before.held, way.held, strict=True))
        if all(a <= most for a, most in zip(held, self._limits.values(), strict=True)):
            yield Way(before.seconds + way.seconds, held, way.devices, before)

    def _placed(self, slots: list[Slot], way: Way) -> Placed:
        """The layers as ``way`` placed them; those with equal ends exchanged, so that equal ones
        lie together, on the default device first.
        """
        order = list(self.estimate.site.devices)
        chosen = [way.devices]
        while way.before is not None and way.before.devices:
            way = way.before
            chosen.insert(0, way.devices)
        alike: dict[tuple[str, str, str], list[int]] = {}
        for i, (block, _) in enumerate(slots):
            alike.setdefault((block.name, chosen[i - 1][-1], chosen[i][-1]), []).append(i)
        found = {}
        for places in alike.values():
            names = sorted(
                (chosen[i] for i in places), key=lambda names: [order.index(n) for n in names]
            )
            found.update(
                {(slots[i][0].name, slots[i][1]): n for i, n in zip(places, names, strict=True)}
            )
        return divided(self.estimate.graph, lambda block, layer: found[block.name, layer])

    @cached_property
    def _limits(self) -> dict[str, float]:
        """Bytes that may be held, by device, of those that could not hold everything."""
        estimate = self.estimate
        whole = sum(block.count * sum(estimate.held(block)) for block in estimate.graph.blocks)
        rooms = self.room.items()
        return {name: room * (1 + ROUNDING) for name, room in rooms if whole > room}

    @cached_property
    def _options(self) -> dict[str, dict[Ends, list[Way]]]:
        """Ways to place one layer of each block."""
        found, names = {}, tuple(self.estimate.site.devices)
        for i, block in enumerate(self.estimate.graph.blocks):
            search = LayerSearch(self.estimate, block, self._limits)
            found[block.name] = search.options((None,) if not i and not block.layers else names)
        return found
