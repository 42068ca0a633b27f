"""New traffic like that of a trace: its lengths, its rate, its reuse of contexts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from servesim.errors import InputError
from servesim.runtime.lengths import require_positive
from servesim.runtime.prefix_statistics import Shape, shapes, statistics
from servesim.runtime.request import RequestSpec
from servesim.runtime.source import OpenSource
from servesim.runtime.streams import stream
from servesim.runtime.trace_file import RequestFile
from servesim.runtime.workloads import WORKLOADS

#: Blocks a request may have before the identities of two could meet.
_REQUEST_BLOCKS = 1 << 24


@WORKLOADS.register("resampled")
@dataclass(frozen=True, kw_only=True)
class Resampled:
    """Requests drawn from a trace with all that belongs to one together: prompt and output
    length, shared prefix, and how long ago that was used before.

    Gaps between arrivals are gamma distributed with the trace's mean and variance.

    Attributes:
        trace: a recorded workload with its options: ``{kind = "mooncake", path = "..."}``.
        num_requests: how many; as many as the trace has when None.
        rate: requests per second; the trace's when None.
        burstiness: shape of the gaps' distribution (1 is Poisson); the trace's when None.
        seed: fixes everything random.
    """

    trace: Mapping[str, Any]
    num_requests: int | None = None
    rate: float | None = None
    burstiness: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_requests", "rate", "burstiness"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        if "kind" not in self.trace:
            raise InputError("trace needs a kind, e.g. mooncake, and its path")

    def source(self) -> OpenSource:
        """The requests in order of arrival."""
        recorded = self._recorded()
        if len(recorded) < 2 or recorded[-1].arrival_s == recorded[0].arrival_s:
            raise InputError("a trace to resample needs requests at two times")
        block = recorded[0].prefix_block_size
        count = self.num_requests or len(recorded)
        drawn = stream(self.seed, "shapes").integers(len(recorded), size=count)
        known = shapes(recorded)
        times = self._times(recorded, count)
        prefixes = _prefixes([known[i] for i in drawn], block)
        requests = (
            RequestSpec(number, time, shape.prompt_tokens, shape.output_tokens, ids, block)
            for number, (time, (shape, ids)) in enumerate(zip(times, prefixes, strict=True))
        )
        return OpenSource(requests, count)

    def _recorded(self) -> list[RequestSpec]:
        options = dict(self.trace)
        kind = options.pop("kind")
        workload = WORKLOADS.build(kind, options)
        if not isinstance(workload, RequestFile):
            raise InputError(f"{kind} is no recorded workload of single requests")
        return workload.entries()

    def _times(self, recorded: Sequence[RequestSpec], count: int) -> list[float]:
        measured = statistics(recorded)
        shape = self.burstiness or measured.burstiness
        rate = self.rate or measured.rate
        if shape == float("inf"):
            return [number / rate for number in range(count)]
        gaps = stream(self.seed, "arrivals").gamma(shape, 1 / (rate * shape), count)
        return [float(time) for time in np.cumsum(gaps)]


def _prefixes(drawn: Sequence[Shape], block: int) -> Iterator[tuple[Shape, tuple[int, ...]]]:
    """Each shape with identities of its prompt's blocks: those shared are some earlier one's."""
    given: list[tuple[int, ...]] = []
    last: dict[int, int] = {}  # request that had a block last
    for number, shape in enumerate(drawn):
        wanted = shape.shared_tokens // block
        shared: tuple[int, ...] = ()
        if wanted and given:
            shared = given[_ancestor(given, last, wanted, number - shape.lag)][:wanted]
        first = number * _REQUEST_BLOCKS
        own = range(first + len(shared), first + shape.prompt_tokens // block)
        given.append((*shared, *own))
        last.update(dict.fromkeys(given[-1], number))
        yield shape, given[-1]


def _ancestor(
    given: Sequence[tuple[int, ...]], last: Mapping[int, int], blocks: int, near: int
) -> int:
    """The request nearest to number ``near`` that was the last to have its first ``blocks``.

    Without one that has so many, the one with the most.
    """
    near = min(max(near, 0), len(given) - 1)
    reach = max(near, len(given) - 1 - near)
    outward = chain.from_iterable((near - away, near + away) for away in range(reach + 1))
    for number in outward:
        if 0 <= number < len(given):
            ids = given[number]
            if len(ids) >= blocks and last[ids[blocks - 1]] == number:
                return number
    return max(range(len(given)), key=lambda number: len(given[number]))
