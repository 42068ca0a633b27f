"""Does the scheduler decide as the live engine's did, given the same requests at the same times?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from servesim.runtime.deciding import build_scheduler
from servesim.runtime.kv import build_cache
from servesim.runtime.modes import SchedulerModes
from servesim.runtime.plan import Plan
from servesim.runtime.request import RequestSpec
from servesim.runtime.scheduler import Scheduler
from servesim.runtime.sequence import Sequence
from servesim.scenario.build import Served
from servesim.validation.live.recorded import SHARED_BLOCK, LiveRequest, LiveRun, LiveStep


@dataclass(frozen=True, slots=True)
class Decisions:
    """How a replay of the recorded moments compares with what was decided.

    Attributes:
        steps: steps recorded.
        identical: of them, those before the first that differs.
        first_difference: step, field and both values; None if all are decided the same.
    """

    steps: int
    identical: int
    first_difference: str | None


class _Moment(IntEnum):
    """What happens at a recorded time; of equal times, in this order."""

    STEP_ENDS = 0
    QUEUED = 1
    SCHEDULED = 2


def replay_decisions(run: LiveRun, served: Served) -> Decisions:
    """Let the scheduler of ``served`` decide every step of ``run``.

    Requests are queued, steps scheduled and their tokens added in the order in which the recording
    did it, so that a step that was scheduled while another ran is so here, too.
    """
    scheduler, plans = _scheduler(served), dict[int, Plan]()
    block_size = served.config.block_size
    for _, moment, i in sorted(_moments(run)):
        if moment is _Moment.QUEUED:
            scheduler.add(Sequence(spec_of(run.requests[i]), i, block_size))
        elif moment is _Moment.STEP_ENDS:
            scheduler.update(plans.pop(i))
        else:
            plans[i] = scheduler.schedule()
            difference = _difference(run.steps[i], plans[i])
            if difference is not None:
                return Decisions(len(run.steps), i, f"step {i}, {difference}")
    left = None if not scheduler.busy else "the recording ends, requests are left"
    return Decisions(len(run.steps), len(run.steps), left)


def spec_of(request: LiveRequest, arrival_s: float | None = None) -> RequestSpec:
    """A recorded request as a workload states it, by default when it was queued."""
    arrival_s = request.queued_s if arrival_s is None else arrival_s
    return RequestSpec(
        request.id,
        arrival_s,
        request.prompt_tokens,
        request.output_tokens,
        request.shared,
        SHARED_BLOCK,
    )


def _scheduler(served: Served) -> Scheduler:
    config, engine = served.config, served.engines[0]
    cache = build_cache(config, engine.blocks, engine.kv_groups)
    return build_scheduler(config, cache, SchedulerModes(listing=True))


def _moments(run: LiveRun) -> list[tuple[float, _Moment, int]]:
    moments = [(r.queued_s, _Moment.QUEUED, r.id) for r in run.requests]
    moments += [(s.start_s, _Moment.SCHEDULED, i) for i, s in enumerate(run.steps)]
    moments += [(s.end_s, _Moment.STEP_ENDS, i) for i, s in enumerate(run.steps)]
    return moments


def _difference(recorded: LiveStep, plan: Plan) -> str | None:
    """The first field that differs, with both values. Preempted requests have no order."""
    decided = {
        "scheduled": tuple((g.seq.spec.id, g.computed, g.new) for g in plan.listing),
        "preempted": tuple(sorted(seq.spec.id for seq in plan.preempted)),
        "free_blocks": plan.free_blocks,
    }
    expected = {
        "scheduled": recorded.scheduled,
        "preempted": tuple(sorted(recorded.preempted)),
        "free_blocks": recorded.free_blocks,
    }
    for name, value in decided.items():
        if value != expected[name]:
            return f"{name}: recorded {expected[name]}, decided {value}"
    return None
