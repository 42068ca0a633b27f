"""Serving the running sequences of a step one by one, preempting when blocks run out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from servesim.runtime.plan import Grant, Plan
from servesim.runtime.sequence import Sequence
from servesim.runtime.speculative import SpeculativeDecodes

if TYPE_CHECKING:
    from servesim.runtime.scheduler import Scheduler


@dataclass(slots=True)
class Round:
    """Where a round through the running sequences is.

    Attributes:
        order: the sequences left in it.
        budget: tokens left in the step.
        slots: tokens of it that each sequence takes beside its own.
        grants: what each sequence before ``position`` got, by index.
    """

    order: list[Sequence]
    budget: int
    slots: int = 0
    position: int = 0
    grants: dict[int, Grant] = field(default_factory=dict)

    def serve(self, grant: Grant) -> None:
        """Give a sequence its tokens."""
        self.grants[grant.seq.index] = grant
        self.budget -= grant.new + self.slots

    def drop(self, seq: Sequence) -> None:
        """Forget a sequence that was preempted; what it got is to be had again."""
        place = self.order.index(seq)
        del self.order[place]
        self.position -= place < self.position
        grant = self.grants.pop(seq.index, None)
        self.budget += grant.new + self.slots if grant else 0


def serve_visited(scheduler: Scheduler, plan: Plan) -> int:
    """Serve the running sequences in turn; returns the tokens left in the step."""
    slots = scheduler.draft_slots
    most = scheduler.limits.max_num_batched_tokens - slots
    turn = Round(list(scheduler.running.values()), most, slots)
    while turn.position < len(turn.order) and turn.budget > 0:
        seq = turn.order[turn.position]
        computed, want = _wants(scheduler, seq)
        new = min(want, turn.budget)
        if not seq.decoding:
            new = scheduler.possible(Grant(seq, computed, new), turn.grants.values()).new
        if new:
            scheduler.cache.settle(seq, scheduler.out(seq, computed))
            if not _make_room(scheduler, seq, scheduler.reach(computed + new), turn, plan):
                break
            turn.serve(Grant(seq, computed, new))
            register(scheduler, seq, computed, new)
        turn.position += 1
    plan.prefills = [grant for grant in turn.grants.values() if not grant.seq.decoding]
    hold_back(scheduler, plan, turn.grants)
    return turn.budget


def _wants(scheduler: Scheduler, seq: Sequence) -> tuple[int, int]:
    """Computed tokens of a running sequence, and how many it should get."""
    if seq.decoding:
        decodes = scheduler.decodes_of(seq)
        wanted = decodes.wanted(seq) if decodes is scheduler.decodes else 0
        return decodes.computed(seq), scheduler.chunk(wanted)
    if seq.ticket in scheduler.prefilling:
        return seq.computed, scheduler.chunk(seq.known - seq.computed)
    return seq.computed, 0  # its last token is under way


def _make_room(scheduler: Scheduler, seq: Sequence, tokens: int, turn: Round, plan: Plan) -> bool:
    """Blocks for ``tokens`` of ``seq``, preempting as needed; False if it gave way itself."""
    while not scheduler.cache.grow(seq, tokens):
        victim = scheduler.policy.victim(scheduler.running)
        turn.drop(victim)
        scheduler.preempt(victim, plan)
        if victim is seq:
            return False
    return True


def register(scheduler: Scheduler, seq: Sequence, computed: int, new: int) -> None:
    """Let others find the full blocks whose tokens are all known.

    With asynchronous scheduling the latest token of a decode is not, unless it was held back, and
    drafts never are.
    """
    decodes, ahead = scheduler.decodes, scheduler.config.async_scheduling
    known = computed + new
    if seq.decoding and isinstance(decodes, SpeculativeDecodes):
        known = decodes.out(seq)
    elif seq.decoding and ahead and seq.index not in scheduler.held_back:
        known = computed
    scheduler.cache.register(seq, known)


def hold_back(scheduler: Scheduler, plan: Plan, grants: dict[int, Grant]) -> None:
    """Note which decoding sequences got nothing, and which get a token again."""
    before, scheduler.held_back = scheduler.held_back, {}
    for seq in scheduler.running.values():
        if not seq.decoding or scheduler.decodes_of(seq) is not scheduler.decodes:
            continue
        if seq.index not in grants:
            scheduler.held_back[seq.index] = seq
            if seq.index not in before:
                plan.paused.append(seq)
        elif seq.index in before:
            plan.resumed.append(seq)
            plan.decodes_resumed += 1
    for seq in scheduler.held_back.values():
        scheduler.decodes.pause(seq)
    if isinstance(scheduler.decodes, SpeculativeDecodes):
        scheduler.decodes.serve([grants[seq.index] for seq in scheduler.decodes.members])
