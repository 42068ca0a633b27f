"""Serving the running sequences of a step that verify drafts, where nothing can run out.

Decides what ``visited`` decides: each sequence gets what it wants, blocks are taken in the order of
admission, and nothing is asked of the cache where a sequence needs no block and fills none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.plan import Plan
from servesim.runtime.speculative import SpeculativeDecodes
from servesim.runtime.visited import hold_back

if TYPE_CHECKING:
    from servesim.runtime.scheduler import Scheduler


def serve_drafted(scheduler: Scheduler, plan: Plan) -> int | None:
    """Serve the running sequences if all decode and are sure of their tokens and blocks.

    Returns:
        The tokens left in the step; None, with nothing changed, if one is not.
    """
    decodes, cache, config = scheduler.decodes, scheduler.cache, scheduler.config
    if not isinstance(decodes, SpeculativeDecodes) or decodes.count < len(scheduler.running):
        return None
    if cache.moving or 0 < config.long_prefill_token_threshold <= decodes.drafts:
        return None
    # What a sequence has computed is in its blocks, drafts under way included.
    most_blocks = blocks_for(scheduler.reach(1 + decodes.drafts), cache.block_size)
    if decodes.count * most_blocks * cache.groups > cache.free:
        return None
    grants = [grant for grant in decodes.wants() if grant.new]
    slots = scheduler.draft_slots
    budget = scheduler.limits.max_num_batched_tokens - slots
    budget -= sum(grant.new for grant in grants) + slots * len(grants)
    if budget < 0:
        return None
    decodes.take_blocks(cache, grants)
    if scheduler.held_back or len(grants) < decodes.count:
        hold_back(scheduler, plan, {grant.seq.index: grant for grant in grants})
    else:
        decodes.serve(grants)
    return budget
