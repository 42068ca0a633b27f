"""Admitting waiting sequences to a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from servesim.runtime.plan import Grant, Plan
from servesim.runtime.sequence import Sequence

if TYPE_CHECKING:
    from servesim.runtime.scheduler import Scheduler


def admit_received(scheduler: Scheduler, plan: Plan, budget: int) -> int:
    """Admit what came from other instances; returns the tokens left in the step."""
    most = scheduler.limits.max_num_seqs
    while scheduler.received and budget > 0 and len(scheduler.running) < most:
        seq = scheduler.received.popleft()
        scheduler.start(seq, seq.computed, plan)
        scheduler.cache.register(seq, seq.known)
        plan.prefills.append(Grant(seq, seq.computed, seq.known - seq.computed))
        budget -= 1 + scheduler.draft_slots
    return budget


def admit(scheduler: Scheduler, plan: Plan, budget: int) -> None:
    """Admit waiting sequences, in the policy's order, until one does not fit."""
    config, cache, waiting = scheduler.config, scheduler.cache, scheduler.policy
    adapters, most = scheduler.adapters, scheduler.limits.max_num_seqs
    if adapters is not None:
        adapters.start_step(_served(scheduler, plan))
    pads = scheduler.speculates and not plan.prefills
    passed: list[Sequence] = []  # over, for want of a slot for their adapter
    while budget > 0 and len(waiting) and len(scheduler.running) < most:
        seq = waiting.peek()
        if seq.known == seq.total:
            break  # it gave way while its last token was under way, which ends it
        if adapters is not None and not adapters.admits(seq):
            passed.append(waiting.pop())
            continue
        if scheduler.refused == (seq, cache.epoch):
            break
        found = scheduler.find(seq)
        computed = len(found) * config.block_size
        computed += cache.recall(seq, computed)
        padding = _padding(scheduler, seq, computed) if pads else 0
        if padding and 1 + padding > budget:
            break
        want = scheduler.chunk(seq.known - computed + padding)
        if want > budget and not config.enable_chunked_prefill:
            break
        new = scheduler.possible(Grant(seq, computed, min(want, budget)), plan.prefills).new
        if not new:
            break
        reserve = seq.known if config.scheduler_reserve_full_isl else 0
        if not cache.admit(seq, found, scheduler.reach(computed + new), reserve):
            # What drafts take beside them depends on the step.
            if reserve and not (scheduler.modes.visit_all or scheduler.speculates):
                scheduler.refused = seq, cache.epoch
            break
        waiting.pop()
        scheduler.start(seq, computed, plan)
        cache.register(seq, min(computed + new, seq.known))
        plan.prefills.append(Grant(seq, computed, new))
        budget -= new + scheduler.draft_slots
    for seq in reversed(passed):
        waiting.put_back(seq)


def _padding(scheduler: Scheduler, seq: Sequence, computed: int) -> int:
    """Drafts that fill up the step of a sequence which lacks its last token alone.

    vLLM gives it as many tokens as the others of a step that has decodes only.
    """
    drafts = scheduler.decodes.drafts
    if seq.known - computed > 1 or not (computed or scheduler.decodes.count):
        return 0
    return drafts if computed + 2 + drafts <= scheduler.config.longest else 0


def _served(scheduler: Scheduler, plan: Plan) -> Iterator[Sequence]:
    """The running sequences that are in a step so far."""
    yield from (grant.seq for grant in plan.prefills)
    for seq in scheduler.running.values():
        if seq.decoding and seq in scheduler.decodes:
            yield seq
