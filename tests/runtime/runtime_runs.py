"""Runs in a few words, for the tests of the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import EngineOptions, Instance
from servesim.runtime.records import Records
from servesim.runtime.request import RequestSpec
from servesim.runtime.source import OpenSource
from servesim.runtime.step import LinearStepModel
from servesim.runtime.steps import ATTENDED, MEANS, SUMS

#: A step takes a second and a tenth of one per token.
SLOW = LinearStepModel(base_s=1.0, per_token_s=0.1)


@dataclass(frozen=True)
class Given:
    """A workload of given requests."""

    requests: Sequence[RequestSpec]

    def source(self) -> OpenSource:
        return OpenSource(self.requests, len(self.requests))


def request(number: int, arrival_s: float, prompt: int, output: int, **more: object) -> RequestSpec:
    return RequestSpec(number, arrival_s, prompt, output, **more)  # type: ignore[arg-type]


def run(
    requests: Sequence[RequestSpec],
    *,
    blocks: int = 1000,
    visit_all: bool = False,
    step_rows: int = 1000,
    model: LinearStepModel = SLOW,
    **config: object,
) -> Records:
    """One engine, synchronous unless told otherwise, on the linear device."""
    given = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "async_scheduling": False, **config}
    engine = Instance(EngineConfig(**given), model, blocks)  # type: ignore[arg-type]
    options = EngineOptions(visit_all=visit_all, step_rows=step_rows)
    return simulate(Given(requests), [engine], options=options)


def everything(records: Records) -> list[bytes]:
    """All that a run recorded, as bytes."""
    requests = records.requests
    columns = [requests.column(name).tobytes() for name in COLUMNS]
    columns.append(repr(sorted(requests.reasons.items())).encode())
    for instance in records.instances:
        steps = instance.steps
        columns += [steps.column(name).tobytes() for name in STEP_COLUMNS]
        columns += [steps.gaps().values.tobytes(), steps.gaps().weights.tobytes()]
    return columns


COLUMNS = (
    "id",
    "arrival_s",
    "queued_s",
    "scheduled_s",
    "first_token_s",
    "finished_s",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "preemptions",
    "instance",
    "status",
)
STEP_COLUMNS = ("start_s", "end_s", *SUMS, *ATTENDED, *MEANS)
