"""What a run leaves behind: flat columns, one row a request and one a step.

The engine only writes here; every metric is computed from these records afterwards.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from servesim.runtime.request import RequestSpec
from servesim.runtime.steps import StepRecords

Column = npt.NDArray[np.float64] | npt.NDArray[np.int64]


class Status(IntEnum):
    """What has become of a request."""

    UNFINISHED = 0
    FINISHED = 1
    REJECTED = 2


TIMES = ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "finished_s")
COUNTS = (
    "id",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "preemptions",
    "instance",
    "status",
)


class RequestRecords:
    """One row a request, in order of arrival; times in seconds, nan where it never happened.

    Attributes:
        arrival_s: when it reached the system.
        queued_s: when the engine took it from its inbox, between two steps.
        scheduled_s: when it was first admitted.
        first_token_s, finished_s: end of the steps of its first and last token.
        cached_tokens: prompt tokens found in the prefix cache when first admitted.
        instance: number of the engine it was sent to.
        reasons: why a request was rejected, by row.
    """

    def __init__(self) -> None:
        self.arrival_s = array("d")
        self.queued_s = array("d")
        self.scheduled_s = array("d")
        self.first_token_s = array("d")
        self.finished_s = array("d")
        self.id = array("q")
        self.prompt_tokens = array("q")
        self.output_tokens = array("q")
        self.cached_tokens = array("q")
        self.preemptions = array("q")
        self.instance = array("q")
        self.status = array("q")
        self.reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.id)

    def add(self, spec: RequestSpec, instance: int) -> int:
        """A new row; returns its number."""
        self.arrival_s.append(spec.arrival_s)
        for times in (self.queued_s, self.scheduled_s, self.first_token_s, self.finished_s):
            times.append(math.nan)
        self.id.append(spec.id)
        self.prompt_tokens.append(spec.prompt_tokens)
        self.output_tokens.append(spec.output_tokens)
        for counts in (self.cached_tokens, self.preemptions):
            counts.append(0)
        self.instance.append(instance)
        self.status.append(Status.UNFINISHED)
        return len(self.id) - 1

    def reject(self, row: int, reason: str) -> None:
        """Note that a request can never run."""
        self.status[row] = Status.REJECTED
        self.reasons[row] = reason

    def column(self, name: str) -> Column:
        """A copy of column ``name`` as an array."""
        values = getattr(self, name)
        if name in TIMES:
            return np.array(values, dtype=np.float64)
        return np.array(values, dtype=np.int64)

    def count(self, status: Status) -> int:
        """Rows with ``status``."""
        return self.status.count(status)


@dataclass(frozen=True, slots=True)
class InstanceRecords:
    """What one engine did.

    Attributes:
        kv_blocks: blocks its sequences could hold.
    """

    name: str
    kv_blocks: int
    block_size: int
    steps: StepRecords


@dataclass(frozen=True, slots=True)
class Records:
    """All that a run leaves behind."""

    requests: RequestRecords
    instances: tuple[InstanceRecords, ...]
