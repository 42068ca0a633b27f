"""Serving the running sequences of a step without visiting those that decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.kv.grouped import GroupedCache
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.sequence import Sequence
from servesim.runtime.speculative import SpeculativeDecodes

if TYPE_CHECKING:
    from servesim.runtime.scheduler import Scheduler


def serve_counted(scheduler: Scheduler, plan: Plan) -> int | None:
    """Serve the running sequences if each decoding one is sure of its token and its block.

    Returns:
        The tokens left in the step; None, with nothing changed, if one is not.
    """
    decodes, cache = scheduler.decodes, scheduler.cache
    if decodes.drafts and isinstance(cache, GroupedCache):
        return None  # its sequences do not say what they hold
    budget = scheduler.limits.max_num_batched_tokens - decodes.tokens
    needing = decodes.needing_block()
    if scheduler.held_back or budget < 0 or len(needing) * cache.groups > cache.free:
        return None
    if not scheduler.prefilling:
        _move_windows(scheduler)
        _take_decode_blocks(scheduler, needing, decodes.filling_block())
        return budget
    in_order = next(iter(scheduler.prefilling)) > decodes.last_ticket
    grants = _prefill_grants(scheduler, budget, may_cut=in_order)
    if grants is None:
        return None
    if (_new_blocks(grants, cache.block_size) + len(needing)) * cache.groups > cache.free:
        return None
    plan.prefills = grants
    _move_windows(scheduler)
    if in_order:
        _take_decode_blocks(scheduler, needing, decodes.filling_block())
        _take_prefill_blocks(scheduler, grants)
    else:
        _take_blocks_by_ticket(scheduler, needing, grants)
    return budget - plan.prefill_tokens


def _move_windows(scheduler: Scheduler) -> None:
    """Give back the blocks of decodes that their next token does not see any more."""
    cache, decodes = scheduler.cache, scheduler.decodes
    if isinstance(cache, GroupedCache):
        cache.move_waiting(lambda seq: decodes.computed(seq) if seq.decoding else seq.computed)
        for seq in decodes.in_phases(cache.moving):
            cache.move_windows(seq, decodes.computed(seq))


def _prefill_grants(scheduler: Scheduler, budget: int, *, may_cut: bool) -> list[Grant] | None:
    """What running prefills get out of ``budget``.

    None if it is too little and may not be cut, because a decode behind might then get nothing.
    """
    grants: list[Grant] = []
    for seq in scheduler.prefilling.values():
        want = scheduler.chunk(seq.known - seq.computed)
        if want > budget and not may_cut:
            return None
        if budget == 0:
            break
        grant = scheduler.encodable(Grant(seq, seq.computed, min(want, budget)), grants)
        if grant.new:
            grants.append(grant)
            budget -= grant.new
    return grants


def _new_blocks(grants: list[Grant], size: int) -> int:
    return sum(
        blocks_for(computed + new, size) - blocks_for(computed, size) for _, computed, new in grants
    )


def _take_prefill_blocks(scheduler: Scheduler, grants: list[Grant]) -> None:
    for seq, computed, new in grants:
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
    if isinstance(scheduler.decodes, SpeculativeDecodes):
        for seq in filling:
            scheduler.cache.register(seq, seq.computed)
        scheduler.cache.extend(needing)
    elif scheduler.config.async_scheduling:
        scheduler.cache.fill(needing)
        scheduler.cache.extend(needing)
    else:
        scheduler.cache.extend(needing)
        scheduler.cache.fill(filling)


def _take_blocks_by_ticket(
    scheduler: Scheduler, needing: list[Sequence], grants: list[Grant]
) -> None:
    """Blocks for decodes and prefills that were admitted in mixed order."""
    filling = scheduler.decodes.filling_block()
    prefills = {grant.seq.ticket: grant for grant in grants}
    tickets = {*prefills, *(seq.ticket for seq in (*needing, *filling))}
    for ticket in sorted(ticket for ticket in tickets if ticket is not None):
        seq = scheduler.running[ticket]
        if ticket in prefills:
            _take_prefill_blocks(scheduler, [prefills[ticket]])
        else:
            needs, fills = ([seq] if seq in some else [] for some in (needing, filling))
            _take_decode_blocks(scheduler, needs, fills)
