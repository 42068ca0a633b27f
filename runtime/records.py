"""What a run leaves behind: flat columns, one row a request and one a step.

The engine only writes here; every metric is computed from these records afterwards.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum

import numpy as np
import numpy.typing as npt

from servesim.runtime.request import RequestSpec
from servesim.runtime.steps import StepRecords
from servesim.runtime.tiers.hierarchy import Pools
from servesim.runtime.tiers.store import TierRecords

Column = npt.NDArray[np.float64] | npt.NDArray[np.int64]


class State(Enum):
    """What an instance is up to."""

    STOPPED = "stopped"
    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"  # finishes what it has, takes nothing new
    FAILED = "failed"


class Status(IntEnum):
    """What has become of a request."""

    UNFINISHED = 0
    FINISHED = 1
    REJECTED = 2
    CANCELLED = 3


TIMES = (
    "arrival_s",
    "queued_s",
    "scheduled_s",
    "first_token_s",
    "finished_s",
    "transfer_start_s",
    "transfer_end_s",
)


class RequestRecords:
    """One row a request, in order of arrival; times in seconds, nan where it never happened.

    Attributes:
        arrival_s: when it reached the system.
        queued_s: when the engine took it from its inbox, between two steps.
        scheduled_s: when it was first admitted.
        first_token_s, finished_s: end of the steps of its first and last token; behind a front end,
            when those tokens reached the client.
        cached_tokens: prompt tokens that needed no computing when first admitted: found in the
            prefix cache, or recalled from memories below (``recalled_tokens``, of these).
        transfer_start_s, transfer_end_s: of its KV, from the instance that computed its prompt to
            the one that generates.
        instance: number of the engine it was sent to, or that generates; -1 if there was none.
        prefill_instance: number of the engine that computes its prompt.
        retries: times it was started again because an instance failed.
        reasons: why a request was rejected, or cancelled, by row.
        first_late_s, last_late_s: what a front end needs for its first and last token beside that
            of any, until ``answer_later``.
        pools: memories below the accelerators', which engines may share.
    """

    def __init__(self) -> None:
        self.arrival_s = array("d")
        self.queued_s = array("d")
        self.scheduled_s = array("d")
        self.first_token_s = array("d")
        self.finished_s = array("d")
        self.transfer_start_s = array("d")
        self.transfer_end_s = array("d")
        self.id = array("q")
        self.prompt_tokens = array("q")
        self.output_tokens = array("q")
        self.cached_tokens = array("q")
        self.recalled_tokens = array("q")
        self.preemptions = array("q")
        self.instance = array("q")
        self.prefill_instance = array("q")
        self.retries = array("q")
        self.status = array("q")
        self.first_late_s = array("d")
        self.last_late_s = array("d")
        self.reasons: dict[int, str] = {}
        self.pools = Pools()

    def __len__(self) -> int:
        return len(self.id)

    def add(self, spec: RequestSpec) -> int:
        """A new row; returns its number."""
        self.arrival_s.append(spec.arrival_s)
        for name in TIMES[1:]:
            getattr(self, name).append(math.nan)
        self.id.append(spec.id)
        self.prompt_tokens.append(spec.prompt_tokens)
        self.output_tokens.append(spec.output_tokens)
        for counts in (self.cached_tokens, self.recalled_tokens, self.preemptions, self.retries):
            counts.append(0)
        self.first_late_s.append(0.0)
        self.last_late_s.append(0.0)
        self.instance.append(-1)
        self.prefill_instance.append(-1)
        self.status.append(Status.UNFINISHED)
        return len(self.id) - 1

    def send(self, row: int, instance: int) -> None:
        """Note the instance a request was sent to."""
        self.instance[row] = self.prefill_instance[row] = instance

    def retry(self, row: int) -> None:
        """Forget an attempt that failed: what it gave, the client does not count."""
        for name in TIMES[1:]:
            getattr(self, name)[row] = math.nan
        self.instance[row] = self.prefill_instance[row] = -1
        self.retries[row] += 1

    def answer_later(self, seconds: float) -> None:
        """Let every token reach its client ``seconds``, and what is late, after its step's end."""
        columns = ((self.first_token_s, self.first_late_s), (self.finished_s, self.last_late_s))
        for column, late_s in columns:
            for row, time in enumerate(column):
                column[row] = time + seconds + late_s[row]  # nan stays nan

    def reject(self, row: int, reason: str) -> None:
        """Note that a request can never run."""
        self.status[row] = Status.REJECTED
        self.reasons[row] = reason

    def cancel(self, row: int, reason: str) -> None:
        """Note that a request was given up before it was answered."""
        self.status[row] = Status.CANCELLED
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
class Change:
    """An instance came to another state."""

    time_s: float
    instance: int
    state: State


@dataclass(frozen=True, slots=True)
class Records:
    """All that a run leaves behind.

    Attributes:
        changes: instances that failed, recovered, started or stopped, in order of time.
        links: bytes that each link between instances carried, by name.
    """

    requests: RequestRecords
    instances: tuple[InstanceRecords, ...]
    changes: tuple[Change, ...] = ()
    links: Mapping[str, float] = field(default_factory=dict)

    @property
    def tiers(self) -> tuple[TierRecords, ...]:
        """What each memory below the accelerators' held and moved."""
        return tuple(store.records for store in self.requests.pools.stores)
