"""All ways worth keeping to place the operators of one layer: dynamic programming along them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from servesim.graph.op import STREAM
from servesim.graph.opgraph import Block
from servesim.hardware.estimate import Estimate
from servesim.hardware.frontier import OF_LAYER, Way, kept

#: Devices of the stream into a layer (None: it costs nothing to read) and out of it.
Ends = tuple[str | None, str]


@dataclass(frozen=True)
class LayerSearch:
    """Places one layer of ``block``; the state is where the results are that will still be read.

    Attributes:
        limits: bytes that may be held, by device, of those whose memory may run out.
    """

    estimate: Estimate
    block: Block
    limits: dict[str, float]

    def options(self, entries: Sequence[str | None]) -> dict[Ends, list[Way]]:
        """The ways by devices of the stream, for each device in ``entries`` that it comes from."""
        found: dict[Ends, list[Way]] = {}
        for entry in entries:
            for way in self._ways(entry):
                found.setdefault((entry, way.devices[-1]), []).append(way)
        return found

    def _ways(self, entry: str | None) -> list[Way]:
        ways = [Way(0.0, (0.0,) * len(self.limits))]
        for i in range(len(self.block.ops)):
            states: dict[tuple[str, ...], list[Way]] = {}
            for way in ways:
                for more in self._placed(i, entry, way):
                    state = tuple(more.devices[j] for j in self._read_after[i])
                    states.setdefault(state, []).append(more)
            limits = tuple(self.limits.values())
            ways = [way for state in states.values() for way in kept(state, limits, OF_LAYER)]
        return ways

    def _placed(self, i: int, entry: str | None, way: Way) -> Iterator[Way]:
        """``way`` and operator ``i`` on each device that can run it."""
        for name, (computing, held) in self._costs[i].items():
            arriving = self._arriving(i, entry, way, name)
            if arriving is None:
                continue
            each = zip(way.held, held, self.limits.values(), strict=True)
            total = tuple(a + b for a, b, _ in each)
            if all(a <= most for a, most in zip(total, self.limits.values(), strict=True)):
                yield Way(way.seconds + computing + arriving, total, (*way.devices, name))

    def _arriving(self, i: int, entry: str | None, way: Way, name: str) -> float | None:
        """Seconds to bring the inputs of operator ``i``, the largest from each other device."""
        payloads: dict[str, float] = {}
        for j in self._inputs[i]:
            there = way.devices[j] if j >= 0 else entry
            if there is not None and there != name:
                payloads[there] = max(payloads.get(there, 0.0), self._results[j])
        seconds = 0.0
        for there, payload in payloads.items():
            sent = self.estimate.transfer(there, name, payload)
            if sent is None:
                return None
            seconds += sent
        return seconds

    @cached_property
    def _inputs(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the operators that each one reads; -1 for the stream."""
        index = {STREAM: -1} | {op.name: i for i, op in enumerate(self.block.ops)}
        return tuple(
            tuple(index[name] for name in op.inputs) if op.inputs else (i - 1,)
            for i, op in enumerate(self.block.ops)
        )

    @cached_property
    def _read_after(self) -> tuple[tuple[int, ...], ...]:
        """After each operator: those whose results are still to be read, by the next layer too."""
        last = len(self.block.ops) - 1
        return tuple(
            tuple(
                j for j in range(i + 1) if j == last or any(j in r for r in self._inputs[i + 1 :])
            )
            for i in range(last + 1)
        )

    @cached_property
    def _results(self) -> dict[int, float]:
        """Bytes that each operator hands on, and the stream."""
        found = {i: self.estimate.result(op) for i, op in enumerate(self.block.ops)}
        return {-1: self.estimate.stream_bytes, **found}

    @cached_property
    def _costs(self) -> tuple[dict[str, tuple[float, tuple[float, ...]]], ...]:
        """Of each operator: seconds and bytes held, by the device that could run it."""
        found: list[dict[str, tuple[float, tuple[float, ...]]]] = []
        for op, held in zip(self.block.ops, self.estimate.held(self.block), strict=True):
            here = {}
            for name in self.estimate.site.devices:
                seconds = self.estimate.seconds(op, name)
                if seconds is not None:
                    here[name] = seconds, tuple(held * (name == one) for one in self.limits)
            found.append(here)
        return tuple(found)
