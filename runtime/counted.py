"""Serving the running sequences of a step without visiting those that decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.sequence import Sequence
from servesim.runtime.visited import register

if TYPE_CHECKING:
    from servesim.runtime.scheduler import Scheduler


def serve_counted(scheduler: Scheduler, plan: Plan) -> int | None:
    """Serve the running sequences if each decoding one is sure of its token and its block.

    Returns:
        The tokens left in the step; None, with nothing changed, if one is not.
    """
    decodes, cache = scheduler.decodes, scheduler.cache
    budget = scheduler.limits.max_num_batched_tokens - decodes.count
    needing = decodes.needing_block()
    if scheduler.held_back or budget < 0 or len(needing) * cache.groups > cache.free:
        return None
    grants, in_order = _prefill_grants(scheduler, budget)
    if grants is None:
        return None
    if (_new_blocks(grants, cache.block_size) + len(needing)) * cache.groups > cache.free:
        return None
    plan.prefills = grants
    moving = _moving(scheduler)
    if in_order and not moving:
        _take_decode_blocks(scheduler, needing, decodes.filling_block())
        _take_prefill_blocks(scheduler, grants)
    else:
        _take_blocks_by_ticket(scheduler, needing, grants, moving)
    return budget - plan.prefill_tokens


def _prefill_grants(scheduler: Scheduler, budget: int) -> tuple[list[Grant] | None, bool]:
    """What running prefills get out of ``budget``, and whether all were admitted after the decodes.

    None if it is too little and may not be cut, because a decode behind might then get nothing.
    """
    may_cut = not scheduler.prefilling or (
        next(iter(scheduler.prefilling)) > scheduler.decodes.last_ticket
    )
    grants: list[Grant] = []
    for seq in scheduler.prefilling.values():
        want = scheduler.chunk(seq.known - seq.computed)
        if want > budget and not may_cut:
            return None, may_cut
        if budget == 0:
            break
        grant = scheduler.possible(Grant(seq, seq.computed, min(want, budget)), grants)
        if grant.new:
            grants.append(grant)
            budget -= grant.new
    return grants, may_cut


def _new_blocks(grants: list[Grant], size: int) -> int:
    return sum(
        blocks_for(computed + new, size) - blocks_for(computed, size) for _, computed, new in grants
    )


def _take_prefill_blocks(scheduler: Scheduler, grants: list[Grant]) -> None:
    for seq, computed, new in grants:
        scheduler.cache.settle(seq, scheduler.out(seq, computed))
        scheduler.cache.grow(seq, computed + new)
        scheduler.cache.register(seq, computed + new)


def _take_decode_blocks(
    scheduler: Scheduler, needing: list[Sequence], filling: list[Sequence]
) -> None:
    """A block for each decode that starts one, and full blocks made known.

    A block is known as soon as all its tokens are. With asynchronous scheduling the token that
    completes it is still under way when it is scheduled, so that is one step later, when the
    sequence needs its next block.
    """
    if scheduler.config.async_scheduling:
        scheduler.cache.fill(needing)
        scheduler.cache.extend(needing)
    else:
        scheduler.cache.extend(needing)
        scheduler.cache.fill(filling)


def _take_blocks_by_ticket(
    scheduler: Scheduler, needing: list[Sequence], grants: list[Grant], moving: list[Sequence]
) -> None:
    """Blocks for decodes and prefills in the order of their admission.

    Where windows move, each sequence gives back what its next token does not see any more before it
    takes: what the blocks held that others then take depends on it.
    """
    decodes = scheduler.decodes
    moves = {seq.ticket: seq for seq in moving}
    needs = {seq.ticket: [seq] for seq in needing}
    fills = {seq.ticket: [seq] for seq in decodes.filling_block()}
    prefills = {grant.seq.ticket: grant for grant in grants}
    tickets = {*prefills, *needs, *fills, *moves}
    for ticket in sorted(ticket for ticket in tickets if ticket is not None):
        if ticket in prefills:
            _take_prefill_blocks(scheduler, [prefills[ticket]])
            continue
        if ticket in moves:
            seq = moves[ticket]
            scheduler.cache.settle(seq, scheduler.out(seq, decodes.computed(seq)))
        _take_decode_blocks(scheduler, needs.get(ticket, []), fills.get(ticket, []))
        if ticket in moves:
            register(scheduler, seq, decodes.computed(seq), 1)


def _moving(scheduler: Scheduler) -> list[Sequence]:
    """Decodes that may hold blocks which their next token does not see any more."""
    decodes, started = scheduler.decodes, scheduler.started
    if not scheduler.cache.moving:
        return []
    moving = [seq for seq in started if seq in decodes]
    for seq in [*started]:
        if seq in decodes:
            started[seq] -= 1
        if not (seq.decoding and started[seq]):
            del started[seq]
    return [*moving, *decodes.in_phases(scheduler.cache.moving)]
