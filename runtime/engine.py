"""One serving engine: a scheduler, a KV cache and a device that takes steps one after another.

With asynchronous scheduling (vLLM's default) a step is scheduled while the one before it runs on
the device. A request that arrives during step k is therefore scheduled when k ends, at which moment
step k+1, decided at the start of k, begins: it first runs in step k+2. A request whose last token
comes out of step k keeps its slot and its blocks until k ends, though it takes no part in k+1.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from servesim.errors import ServesimError
from servesim.runtime.cancelling import Cancellations, reason
from servesim.runtime.deciding import build_scheduler
from servesim.runtime.frontend import Outlet
from servesim.runtime.instance import (
    DEFAULT_OPTIONS,
    EngineOptions,
    Instance,
    drawn_drafts,
    with_drafts_in_time,
)
from servesim.runtime.kv import build_cache
from servesim.runtime.modes import SchedulerModes
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.records import InstanceRecords, RequestRecords, Status
from servesim.runtime.refusal import refusal
from servesim.runtime.request import RequestSpec
from servesim.runtime.reservations import Reservations
from servesim.runtime.scheduler import Scheduler
from servesim.runtime.sequence import Sequence
from servesim.runtime.step_time import step_seconds
from servesim.runtime.steps import StepRecords
from servesim.runtime.tiers.hierarchy import build_hierarchy


class Engine:
    """Runs the requests submitted to it.

    Whoever drives it alternates ``run``, which starts steps, and ``complete``, which ends the one
    under way.
    """

    #: Whether a step may end when a network says.
    can_wait: ClassVar[bool] = True

    def __init__(
        self, instance: Instance, requests: RequestRecords, options: EngineOptions = DEFAULT_OPTIONS
    ) -> None:
        instance = with_drafts_in_time(instance)
        self.config = instance.config
        self.records = InstanceRecords(
            instance.name,
            instance.blocks - 1,
            instance.config.block_size,
            StepRecords(options.step_rows),
        )
        self._model = instance.step_model
        self._instance = instance
        self.tiers = build_hierarchy(
            instance.offload, requests.pools, self._model, can_wait=self.can_wait
        )
        self._requests = requests
        sharing = self.config.enable_prefix_caching and self._model.counts_sharing
        contexts = self._model.needs_contexts
        self._modes = SchedulerModes(options.visit_all, contexts=contexts, sharing=sharing)
        self._start_empty()
        self.tells_prefills = False  # return from ``run`` at each step with a prefill
        self._inbox: deque[Sequence] = deque()
        self.cancellations = Cancellations()
        self._new_tokens = 0  # of prompts never admitted
        self._current: Plan | None = None  # on the device
        self._ahead: Plan | None = None  # scheduled while it runs
        self._start_s = self._end_s = 0.0
        self._resumed_s: list[float] = []  # last tokens of who gets one again in the current step
        self._paused: list[Sequence] = []  # who gets none in the step ahead
        #: Called with the end of the step under way, and the time, if ``run`` did not know it.
        self.tell_end: Callable[[float, float], None] = lambda end_s, now: None
        self.outlet = Outlet()

    @property
    def idle(self) -> bool:
        """Whether no step is under way."""
        return self._current is None

    @property
    def waiting(self) -> int:
        """Requests not admitted yet, or preempted."""
        return len(self._inbox) + len(self.scheduler.policy) + len(self.scheduler.received)

    @property
    def backlog_tokens(self) -> int:
        """Prompt tokens to compute before whoever comes next: of all that have no answer yet."""
        prefilling = self.scheduler.prefilling.values()
        return self._new_tokens + sum(seq.known - seq.computed for seq in prefilling)

    @property
    def empty(self) -> bool:
        """Whether nothing at all is here."""
        return self.idle and not (self._inbox or self.scheduler.busy or self.reservations.held)

    def refusal(self, spec: RequestSpec) -> str | None:
        """Why a request could never run here; None if it can."""
        return refusal(spec, self._instance, self.scheduler)

    def submit(self, spec: RequestSpec, row: int, *, hands_over: bool = False) -> None:
        """Put a request, row ``row`` of the records, into the inbox.

        Args:
            hands_over: keep its blocks when it finishes, until its reservation is released.
        """
        seq = Sequence(spec, row, self.config.block_size)
        seq.hands_over = hands_over
        self.cancellations.expect(seq)
        self._inbox.append(seq)
        self._new_tokens += spec.prompt_tokens

    def run(self, now: float, horizon: float) -> float | None:
        """Start the next step at ``now``, and further ones as long as nobody need be told.

        Args:
            now: when the device is free.
            horizon: steps that end before it, and finish no request, are completed and followed
                by the next.

        Returns:
            The end of the step under way; None if there is nothing to do; infinity if it waits
            for a network, in which case ``tell_end`` is called when the end is known.

        Raises:
            ServesimError: requests wait that can never be admitted.
        """
        while self._start(now):
            assert self._current is not None
            told = self._current.finishing or (self.tells_prefills and self._current.prefills)
            shares = self.tiers is not None and self.tiers.shared
            lost = self.cancellations and self.cancellations.due(self._end_s)
            if told or lost or shares or self._end_s >= horizon:  # infinite if not known yet
                return self._end_s
            self.complete()
            now = self._end_s
        return None

    def complete(self) -> list[Sequence]:
        """End the step under way; returns the sequences that finished, or were cancelled."""
        plan, now, requests = self._current, self._end_s, self._requests
        assert plan is not None
        self._current = None
        if self.tiers is not None:
            self.tiers.settle(now)
        cancelled = self.cancel(now) if self.cancellations else []
        late_s = self.outlet.late_s(now, plan.decodes + len(plan.first))
        for seq in plan.first:
            if not seq.finished:
                requests.first_token_s[seq.index] = now
                requests.first_late_s[seq.index] = late_s
        finished = self.scheduler.update(plan)
        for seq in finished:
            requests.preemptions[seq.index] += seq.preemptions
            if seq.hands_over:
                self.reservations.keep(seq)
                continue
            requests.finished_s[seq.index] = now
            requests.last_late_s[seq.index] = late_s
            requests.status[seq.index] = Status.FINISHED
        return [*cancelled, *finished]

    def cancel(self, now: float) -> list[Sequence]:
        """Let go who is given up until ``now``, before the tokens of the step that ends come out.

        As in vLLM, blocks are free at once; what is scheduled of them already runs in vain;
        step records count its tokens all the same.
        """
        cancelled = self.cancellations.take(now)
        for seq in cancelled:
            if seq in self._inbox:
                self._inbox.remove(seq)
                seq.finished = True
            else:
                self.scheduler.cancel(seq)
            if seq.cached_tokens is None:
                self._new_tokens -= seq.spec.prompt_tokens
            self._requests.preemptions[seq.index] += seq.preemptions
            self._requests.cancel(seq.index, reason(seq.spec))
        return cancelled

    def prefills(self) -> tuple[float, float, list[Grant]]:
        """Start, end and prefills of the step under way."""
        assert self._current is not None
        return self._start_s, self._end_s, self._current.prefills

    def fail(self, now: float) -> list[Sequence]:
        """Lose everything at once; returns the sequences that were here, scheduled or waiting."""
        if self._current is not None and self._end_s == math.inf:
            self._add_step(math.inf)
        self.records.steps.cut(now)
        lost = [*self._inbox, *self.scheduler.running.values(), *self.scheduler.received]
        lost += [self.scheduler.policy.pop() for _ in range(len(self.scheduler.policy))]
        self._inbox.clear()
        self.cancellations.clear()
        self._current = self._ahead = None
        self._new_tokens = 0
        self._start_empty()
        return lost

    def _start(self, now: float) -> bool:
        """Put the next step on the device."""
        plan = self._take(now)
        if plan is None:
            self._require_idle()
            return False
        seconds = step_seconds(self._instance, plan)
        tiers = self.tiers
        end = now + seconds if tiers is None else tiers.recalled_s(now, seconds, self._end_known)
        self._begin(plan, now, end)
        return True

    def _take(self, now: float) -> Plan | None:
        """The step scheduled ahead, or one decided now."""
        plan, self._ahead = self._ahead, None
        return plan if plan is not None else self._schedule(now, now)

    def _begin(self, plan: Plan, now: float, end_s: float) -> None:
        """Run a step on the device from ``now`` to ``end_s``, infinity if that is not known."""
        self._current = plan
        self._start_s, self._end_s = now, end_s
        # Before the step ahead, which may pause them again.
        self._resumed_s = [seq.last_token_s for seq in plan.resumed if seq.last_token_s is not None]
        self._paused = []
        if end_s < math.inf:
            self._add_step(end_s)
        if self.config.async_scheduling:
            self._ahead = self._schedule(now, end_s)

    def _end_known(self, end_s: float, now: float) -> None:
        """All that the step under way waited for is here: it ends at ``end_s``."""
        self._end_s = end_s
        self._add_step(end_s)
        for seq in self._paused:
            seq.last_token_s = end_s
        self.tell_end(end_s, now)

    def _add_step(self, end_s: float) -> None:
        """Add the step under way to the records."""
        plan, steps = self._current, self.records.steps
        assert plan is not None
        for last_token_s in self._resumed_s:
            steps.add_pause(end_s - last_token_s)
        steps.add(self._start_s, end_s, plan, self.records.kv_blocks - plan.free_blocks)

    def _schedule(self, now: float, token_s: float) -> Plan | None:
        """Decide a step; ``token_s`` is when the tokens of the one before it come out."""
        requests, scheduler = self._requests, self.scheduler
        if self.tiers is not None:
            self.tiers.now = now
        while self._inbox:
            seq = self._inbox.popleft()
            requests.queued_s[seq.index] = now
            scheduler.add(seq)
        if not scheduler.busy:
            return None
        plan = scheduler.schedule()
        self._paused = plan.paused
        for seq in plan.paused:
            seq.last_token_s = token_s
        if plan.empty:  # a sequence that gave way itself ends a step, maybe before any had a token
            return self._schedule(now, token_s) if plan.preempted and self.idle else None
        for seq in plan.admitted:
            self._new_tokens -= seq.spec.prompt_tokens
            requests.scheduled_s[seq.index] = now
            requests.cached_tokens[seq.index] = seq.cached_tokens or 0
            requests.recalled_tokens[seq.index] = seq.recalled_tokens
        return plan

    def _start_empty(self) -> None:
        self.scheduler = self._new_scheduler()
        self.reservations = Reservations(self.scheduler, self._between_steps)

    def _between_steps(self) -> bool:
        return self.idle and self._ahead is None

    def _new_scheduler(self) -> Scheduler:
        if self.tiers is not None:
            self.tiers.clear()
        groups = self._instance.kv_groups
        cache = build_cache(self.config, self.records.kv_blocks + 1, groups, self.tiers)
        role, drafts = self._instance.role, drawn_drafts(self._instance)
        return build_scheduler(self.config, cache, self._modes, role, drafts)

    def _require_idle(self) -> None:
        if self.scheduler.busy and not self.reservations.held:
            raise ServesimError(
                f"{self.records.name}: {len(self.scheduler.policy)} requests wait that can never "
                f"be admitted, {self.scheduler.cache.free} KV blocks free"
            )
