"""Whole runs with the measured length of every step: do requests get their tokens when they did?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.runtime.cluster import simulate
from servesim.runtime.instance import Instance
from servesim.runtime.records import Records
from servesim.runtime.request import RequestSpec
from servesim.runtime.source import OpenSource
from servesim.scenario.build import Served
from servesim.validation.live.decisions import spec_of
from servesim.validation.live.recorded import LiveRun
from servesim.validation.live.served import Times, spans


@dataclass(frozen=True, slots=True)
class Replay:
    """First and last tokens of a run whose steps took as long as measured.

    Attributes:
        requests: requests of the run.
        within: of them, those whose first and last token came within the step that made it.
        worst_s: the largest deviation of a token, and ``worst_steps``, in steps.
    """

    requests: int
    within: int
    worst_s: float
    worst_steps: float


@dataclass
class _RecordedSteps:
    """A step model that answers with the next measured step, whatever the batch."""

    lengths: Sequence[float]
    needs_contexts: bool = False
    counts_sharing: bool = False
    asked: int = field(default=0, init=False)

    def seconds(self, batch: BatchShape) -> float:
        """Of the next step; of the last one, once all were asked for."""
        at = min(self.asked, len(self.lengths) - 1)
        self.asked += 1
        return float(self.lengths[at])

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """As ``seconds``."""
        return self.seconds(BatchShape())


@dataclass(frozen=True)
class _Queued:
    """The requests of a run as a workload."""

    requests: Sequence[RequestSpec]

    def source(self) -> OpenSource:
        """In order of arrival."""
        return OpenSource(self.requests, len(self.requests))


def replay_times(run: LiveRun, served: Served) -> Replay:
    """Simulate ``run`` with its own step lengths.

    Raises:
        UnsupportedError: steps overlap (``async_scheduling``), so that they have no lengths.
    """
    if served.config.async_scheduling:
        raise UnsupportedError("steps that overlap (async_scheduling) cannot be replayed by length")
    begin, end = spans(run)
    model = _RecordedSteps((end - begin).tolist())
    one = served.engines[0]
    engine = Instance(one.config, model, one.num_gpu_blocks, kv_groups=one.kv_groups)
    records = simulate(_Queued(_requests(run, begin, end)), [engine])
    return _compared(run, records, end - begin)


def _requests(run: LiveRun, begin: Times, end: Times) -> list[RequestSpec]:
    """Each request, arriving while the step runs after which it was queued.

    In the middle of it, lest a rounding error decide; where the engine stood still, at once.
    """
    starts = np.array([step.start_s for step in run.steps])
    specs = []
    for request in sorted(run.requests, key=lambda r: (r.queued_s, r.id)):
        first = int(np.searchsorted(starts, request.queued_s))
        at = begin[first]
        if first and at == end[first - 1]:
            at = (begin[first - 1] + at) / 2
        specs.append(spec_of(request, float(at)))
    return specs


def _compared(run: LiveRun, records: Records, lengths: Times) -> Replay:
    rows = records.requests
    order = np.argsort(rows.column("id"), kind="stable")
    ends = np.array([step.end_s for step in run.steps])
    late, allowed = [], []
    for name in ("first_token_s", "finished_s"):
        measured = np.array([getattr(r, name) for r in run.requests])
        made = np.minimum(np.searchsorted(ends, measured), len(ends) - 1)
        late.append(np.abs(rows.column(name)[order] - measured))
        allowed.append(lengths[made])
    off, step = np.array(late), np.array(allowed)
    within = (off <= step).all(axis=0)
    return Replay(len(run.requests), int(within.sum()), float(off.max()), float((off / step).max()))
