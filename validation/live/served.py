"""A recorded live run in the simulator's terms: what it ran on, what it was asked, its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from servesim.graph.batch import BatchShape
from servesim.runtime.config import EngineConfig
from servesim.runtime.sequence import block_identities
from servesim.scenario.build import Served
from servesim.validation.live.decisions import spec_of
from servesim.validation.live.recorded import SHARED_BLOCK, LiveRequest, LiveRun, LiveStep
from servesim.validation.measured import MeasuredRequest, MeasuredRun
from servesim.validation.run import serve_run

_OPTIONS = frozenset(field.name for field in fields(EngineConfig))

Times = npt.NDArray[np.float64]


def serve_live(run: LiveRun, config: Mapping[str, Any], device: str) -> Served:
    """What ``run`` was recorded on, ready to simulate.

    Args:
        config: the model's config.json.
        device: name or file of the device.

    Raises:
        ServesimError: model, device or options cannot be simulated.
    """
    return serve_run(measured_run(run, config, device))


def measured_run(run: LiveRun, config: Mapping[str, Any], device: str) -> MeasuredRun:
    """``run`` in the form of every measured run, its times those of the client's clock."""
    options = _options(run.engine)
    requests = tuple(
        MeasuredRequest(
            r.id,
            r.arrival_s,
            r.first_token_s,
            r.finished_s,
            r.prompt_tokens,
            r.output_tokens,
            block_identities(spec_of(r), int(options.get("block_size", SHARED_BLOCK))),
        )
        for r in sorted(run.requests, key=lambda r: (r.arrival_s, r.id))
    )
    return MeasuredRun(
        name=f"{run.model} {run.load} {run.repeat}",
        hardware=device,
        model=run.model,
        hf_config=config,
        engine=options,
        requests=requests,
        clock="client",
        source=str(run.about.get("machine", "")),
        fused=bool(run.engine.get("fused", True)),
        experts=run.experts,
    )


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a simulation takes of recorded options, without those the engine chose by itself."""
    return {name: v for name, v in given.items() if name in _OPTIONS and v is not None}


def batch_of(step: LiveStep, run: LiveRun) -> BatchShape:
    """The batch of a recorded step as a step model sees it."""
    decodes, decoding, prefills = [], [], []
    for number, computed, tokens in step.scheduled:
        request = run.requests[number]
        if tokens == 1 and computed >= request.prompt_tokens:
            decodes.append(computed)
            decoding.append(request)
        else:
            prefills.append((tokens, computed))
    contexts = np.asarray(decodes, dtype=np.int64)
    shared, repeated = _shared_context(decoding, run.engine)
    return BatchShape(
        tuple(prefills),
        len(decodes),
        sum(decodes),
        max(decodes, default=0),
        contexts,
        shared_context=shared,
        repeated_context=repeated,
    )


def _shared_context(decoding: Iterable[LiveRequest], engine: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens that several of the requests have, and how often again, if the engine knows it."""
    if not engine.get("enable_prefix_caching"):
        return 0, 0
    size = int(engine.get("block_size", SHARED_BLOCK))
    held = Counter(block for r in decoding for block in block_identities(spec_of(r), size))
    more = [count - 1 for count in held.values() if count > 1]
    return len(more) * size, sum(more) * size


def spans(run: LiveRun) -> tuple[Times, Times]:
    """From when to when each step kept the engine.

    A step lasts until the next one starts, as long as any request is unfinished: what the engine
    does in between, it does for the next. The first step after a pause begins when the first
    request is queued.

    Returns:
        Begin and end of each step, in seconds since the start of the run.
    """
    queued = np.sort([r.queued_s for r in run.requests])
    finished = np.sort([r.finished_s for r in run.requests])

    def until(now: float, times: Times) -> int:
        return int(np.searchsorted(times, now, side="right"))

    begin, end = np.empty(len(run.steps)), np.empty(len(run.steps))
    free_s, busy = 0.0, False
    for i, step in enumerate(run.steps):
        first = queued[min(until(free_s, queued), len(queued) - 1)]
        begin[i] = free_s if busy else min(first, step.start_s)
        unfinished = until(step.end_s, queued) > until(step.end_s, finished)
        busy = unfinished and i + 1 < len(run.steps)
        end[i] = free_s = run.steps[i + 1].start_s if busy else step.end_s
    return begin, end
