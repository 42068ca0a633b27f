"""An engine whose devices form a pipeline, with a batch in flight for each stage.

As vLLM's engine core does (``step_with_batch_queue``): it schedules batches until there are as many
in flight as stages or nothing is left to schedule; then it waits for the oldest. A stage works on
one batch at a time, so batches that find it busy queue up before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from servesim.errors import InputError
from servesim.runtime.engine import Engine
from servesim.runtime.instance import DEFAULT_OPTIONS, EngineOptions, Instance
from servesim.runtime.parallel.lanes import LaneScheduler
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.records import RequestRecords
from servesim.runtime.sequence import Sequence
from servesim.runtime.step_time import before_s


@dataclass(frozen=True, slots=True)
class Passage:
    """A batch on its way through the stages."""

    plan: Plan
    start_s: float
    end_s: float


class PipelineEngine(Engine):
    """Runs its requests in as many batches as there are stages."""

    can_wait = False

    def __init__(
        self, instance: Instance, requests: RequestRecords, options: EngineOptions = DEFAULT_OPTIONS
    ) -> None:
        if not isinstance(instance.step_model, StagedStepModel):
            raise InputError(f"{instance.name}: a pipeline needs a step model with stages")
        self.stages = instance.step_model
        # A token must be out before its sequence is scheduled again: nothing is scheduled ahead.
        config = replace(instance.config, async_scheduling=False)
        super().__init__(replace(instance, config=config), requests, options)
        self._flights: deque[Passage] = deque()
        self._stage_free = [0.0] * len(self.stages.stages)
        self._last_end_s = 0.0

    @property
    def lanes(self) -> LaneScheduler:
        """The scheduler."""
        assert isinstance(self.scheduler, LaneScheduler)
        return self.scheduler

    @property
    def idle(self) -> bool:
        """Whether no batch is in flight."""
        return not self._flights

    def run(self, now: float, horizon: float) -> float | None:
        """Fill the pipeline at ``now``; returns the end of its oldest batch, as ``Engine.run``."""
        while True:
            self._fill(now)
            if not self._flights:
                self._require_idle()
                return None
            oldest = self.oldest
            if self.told() or oldest.end_s >= horizon:
                return oldest.end_s
            self.complete()
            now = oldest.end_s

    def complete(self) -> list[Sequence]:
        """End the oldest batch."""
        flight = self._flights.popleft()
        self._current, self._end_s = flight.plan, flight.end_s
        if flight.plan.empty:
            return self.cancel(flight.end_s)
        return super().complete()

    @property
    def oldest(self) -> Passage:
        """The batch that comes out next."""
        return self._flights[0]

    def told(self) -> bool:
        """Whether somebody else must know when the oldest batch ends."""
        plan = self.oldest.plan
        shares = self.tiers is not None and self.tiers.shared
        told = plan.finishing or shares or (self.tells_prefills and plan.prefills)
        return bool(told or self.cancellations.due(self.oldest.end_s))

    def prefills(self) -> tuple[float, float, list[Grant]]:
        """Start, end and prefills of the oldest batch."""
        flight = self.oldest
        return flight.start_s, flight.end_s, flight.plan.prefills

    def fail(self, now: float) -> list[Sequence]:
        """Lose everything at once; returns the sequences that were here."""
        self._flights.clear()
        self._stage_free = [0.0] * len(self._stage_free)
        return super().fail(now)

    def _new_scheduler(self) -> LaneScheduler:
        return LaneScheduler(super()._new_scheduler(), len(self.stages.stages))

    def _fill(self, now: float) -> None:
        while self.lanes.free:
            plan = self._schedule(now, now)
            if plan is None:
                return
            hop = self.stages.hop_seconds(plan.decodes + plan.prefill_tokens)
            self._launch(plan, now, self.prepared(plan, now, self._stage_times(plan)), hop)

    def prepared(self, plan: Plan, now: float, times: list[float]) -> list[float]:
        """``times`` of the stages, the first with what must be brought to the devices before."""
        times[0] += before_s(self._instance, plan)
        if self.tiers is not None:
            start = max(now, self._stage_free[0])
            end = self.tiers.recalled_s(start, times[0], lambda end_s, now: None)
            times[0] = end - start
        return times

    def _stage_times(self, plan: Plan) -> list[float]:
        if plan.plain:
            return self.stages.decode_stage_seconds(plan.decodes, plan.context, plan.context_max)
        return self.stages.stage_seconds(plan.shape())

    def _launch(self, plan: Plan, now: float, times: list[float], hop: float) -> float:
        """Send a batch through the stages, each of which first ends what it is at.

        Args:
            times: seconds in each stage.
            hop: seconds from one to the next.

        Returns:
            When it is out.
        """
        at = now
        for stage, seconds in enumerate(times):
            start = max(at + (hop if stage else 0.0), self._stage_free[stage])
            at = self._stage_free[stage] = start + seconds
        self._flights.append(Passage(plan, now, at))
        self._record(plan, now, at)
        return at

    def _record(self, plan: Plan, start: float, end: float) -> None:
        """A row from the end of the batch before, so that rows do not overlap.

        The tokens of a sequence are as far apart as its lane takes to come round.
        """
        steps = self.records.steps
        for seq in plan.resumed:
            assert seq.last_token_s is not None
            steps.add_pause(end - seq.last_token_s)
        steps.add_gaps(end - start, plan.decodes - plan.decodes_resumed)
        plan.decodes_resumed = plan.decodes  # the row's own length is no gap
        held = self.records.kv_blocks - plan.free_blocks
        steps.add(max(start, self._last_end_s), end, plan, held)
        self._last_end_s = end
