"""Which sequences get how many tokens in the next step, decided as vLLM V1 decides it.

There is one rule for prefill and decode: a sequence needs its known tokens less its computed ones.
Running sequences are served first, in the order of admission, then waiting ones, while tokens,
sequences and KV blocks last. Out of blocks, running sequences are preempted: they lose their
blocks and wait to be computed again.

Decoding sequences are counted (``DecodeSet``) as long as each of them is sure to get its token and
block; else every running sequence is visited in turn. ``visit_all`` makes that the rule: it is the
plain reference, which decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from servesim.runtime.config import EngineConfig
from servesim.runtime.decodes import DecodeSet
from servesim.runtime.kv.cache import KVCache, blocks_for
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.schedulers import SchedulingPolicy
from servesim.runtime.sequence import Sequence


@dataclass(frozen=True, slots=True)
class SchedulerModes:
    """What does not change any decision.

    Attributes:
        visit_all: visit every running sequence in every step.
        listing: keep all grants of a step in its plan.
        contexts: keep the contexts of the decodes in it.
    """

    visit_all: bool = False
    listing: bool = False
    contexts: bool = False


DEFAULT_MODES = SchedulerModes()


class Scheduler:
    """Running and waiting sequences over a KV cache.

    Attributes:
        running: by ticket, in the order of admission, until the end of their last step.
        decodes: those of them that gain a token every step.
    """

    def __init__(
        self,
        config: EngineConfig,
        policy: SchedulingPolicy,
        cache: KVCache,
        modes: SchedulerModes = DEFAULT_MODES,
    ) -> None:
        self.config = config
        self.policy = policy
        self.cache = cache
        self.modes = modes
        self.running: dict[int, Sequence] = {}
        self.decodes = DecodeSet(config.block_size)
        self._prefilling: dict[int, Sequence] = {}  # running, with several known tokens to compute
        self._held_back: dict[int, Sequence] = {}  # decoding, but without a token in the last step
        self._next_ticket = 0
        self._refused: tuple[Sequence, int] | None = None  # found no room in this epoch of the KV

    def add(self, seq: Sequence) -> None:
        """Let ``seq`` wait for admission."""
        self.policy.add(seq)

    @property
    def busy(self) -> bool:
        """Whether any sequence runs or waits."""
        return bool(self.running) or len(self.policy) > 0

    def schedule(self) -> Plan:
        """Decide the next step and count its tokens as computed."""
        plan = Plan()
        budget = None if self.modes.visit_all else self._count_running(plan)
        if budget is None:
            budget = self._visit_running(plan)
        if not plan.preempted:
            self._admit(plan, budget)
        if self.modes.listing:
            plan.listing = self._listing(plan)
        self._advance(plan)
        return plan

    def update(self, plan: Plan) -> list[Sequence]:
        """Account for a step that has ended; returns the sequences that finished, in order."""
        for seq in self._held_back.values():
            self.cache.register(seq, self.decodes.computed(seq))
        plan.finishing.sort(key=lambda seq: -1 if seq.ticket is None else seq.ticket)
        for seq in plan.finishing:
            if seq.ticket is None:  # preempted while its last token was under way
                self.policy.remove(seq)
            else:
                self.cache.register(seq, seq.computed)
                self.cache.release(seq)
                del self.running[seq.ticket]
        return plan.finishing

    # Running sequences, counted.

    def _count_running(self, plan: Plan) -> int | None:
        """Serve the running sequences without visiting the decoding ones.

        Returns:
            The tokens left in the step; None, with nothing changed, if not all are sure of theirs.
        """
        budget = self.config.max_num_batched_tokens - self.decodes.count
        needing = self.decodes.needing_block()
        if self._held_back or budget < 0 or len(needing) > self.cache.free:
            return None
        in_order = True
        if self._prefilling:
            in_order = next(iter(self._prefilling)) > self.decodes.last_ticket
            grants = self._prefill_grants(budget, may_cut=in_order)
            if grants is None or self._new_blocks(grants) + len(needing) > self.cache.free:
                return None
            plan.prefills = grants
            budget -= plan.prefill_tokens
        if in_order:
            self._take_decode_blocks(needing, self.decodes.filling_block())
            self._take_blocks(plan.prefills)
        else:
            self._take_in_order(needing, plan.prefills)
        return budget

    def _prefill_grants(self, budget: int, *, may_cut: bool) -> list[Grant] | None:
        """What running prefills get out of ``budget``; None if it does not do and may not be cut
        because decodes come after them."""
        grants = []
        for seq in self._prefilling.values():
            want = self._chunk(seq.known - seq.computed)
            if want > budget and not may_cut:
                return None
            if budget == 0:
                break
            grants.append(Grant(seq, seq.computed, min(want, budget)))
            budget -= grants[-1].new
        return grants

    def _new_blocks(self, grants: list[Grant]) -> int:
        size = self.config.block_size
        return sum(
            blocks_for(computed + new, size) - blocks_for(computed, size)
            for _, computed, new in grants
        )

    def _take_blocks(self, grants: list[Grant]) -> None:
        for seq, computed, new in grants:
            self.cache.grow(seq, computed + new)
            self.cache.register(seq, computed + new)

    def _take_decode_blocks(self, needing: list[Sequence], filling: list[Sequence]) -> None:
        """A block for each decode that starts one, and full blocks made known.

        A block is known as soon as all its tokens are. With asynchronous scheduling the token that
        completes it is still under way when it is scheduled, so that is one step later, when the
        sequence needs its next block.
        """
        if self.config.async_scheduling:
            self.cache.fill(needing)
            self.cache.extend(needing)
        else:
            self.cache.extend(needing)
            self.cache.fill(filling)

    def _take_in_order(self, needing: list[Sequence], grants: list[Grant]) -> None:
        """Blocks for decodes and prefills that were admitted in mixed order."""
        filling = self.decodes.filling_block()
        prefills = {grant.seq.ticket: grant for grant in grants}
        touched = {*prefills, *(seq.ticket for seq in (*needing, *filling))}
        for ticket in sorted(ticket for ticket in touched if ticket is not None):
            if ticket in prefills:
                self._take_blocks([prefills[ticket]])
            else:
                seq = self.running[ticket]
                self._take_decode_blocks(
                    [seq] if seq in needing else [], [seq] if seq in filling else []
                )

    # Running sequences, one by one.

    def _visit_running(self, plan: Plan) -> int:
        """Serve the running sequences in turn; returns the tokens left in the step."""
        budget = self.config.max_num_batched_tokens
        order = list(self.running.values())
        grants: dict[int, Grant] = {}
        position = 0
        while position < len(order) and budget > 0:
            seq = order[position]
            computed, want = self._wants(seq)
            new = min(want, budget)
            if new and not self._make_room(seq, computed + new, order, grants, plan):
                break
            # Preempting a sequence served before moves everyone up and returns its tokens.
            position = order.index(seq) + 1
            if new:
                grants[seq.index] = Grant(seq, computed, new)
                self._publish(grants[seq.index])
            budget = self.config.max_num_batched_tokens - sum(g.new for g in grants.values())
        plan.prefills = [grant for grant in grants.values() if not grant.seq.decoding]
        self._hold_back(plan, grants)
        return budget

    def _wants(self, seq: Sequence) -> tuple[int, int]:
        """Computed tokens of a running sequence, and how many it should get."""
        if seq.decoding:
            return self.decodes.computed(seq), 1
        if seq.ticket in self._prefilling:
            return seq.computed, self._chunk(seq.known - seq.computed)
        return seq.computed, 0  # its last token is under way

    def _make_room(
        self,
        seq: Sequence,
        tokens: int,
        order: list[Sequence],
        grants: dict[int, Grant],
        plan: Plan,
    ) -> bool:
        """Blocks for ``tokens`` of ``seq``, preempting as needed; False if it gave way itself."""
        while not self.cache.grow(seq, tokens):
            victim = self.policy.victim(self.running)
            order.remove(victim)
            grants.pop(victim.index, None)
            self._preempt(victim, plan)
            if victim is seq:
                return False
        return True

    def _preempt(self, seq: Sequence, plan: Plan) -> None:
        assert seq.ticket is not None
        if seq.decoding:
            self.decodes.remove(seq)
            if self._held_back.pop(seq.index, None) is None:
                plan.paused.append(seq)
        self._prefilling.pop(seq.ticket, None)
        self.cache.release(seq, returns=True)
        del self.running[seq.ticket]
        seq.ticket = None
        seq.computed = 0
        seq.preemptions += 1
        self.policy.put_back(seq)
        plan.preempted.append(seq)

    def _publish(self, grant: Grant) -> None:
        """Let others find the full blocks whose tokens are all known."""
        seq, computed, new = grant
        under_way = (
            seq.decoding and self.config.async_scheduling and seq.index not in self._held_back
        )
        self.cache.register(seq, computed if under_way else computed + new)

    def _hold_back(self, plan: Plan, grants: dict[int, Grant]) -> None:
        """Note which decoding sequences got nothing, and which get a token again."""
        before, self._held_back = self._held_back, {}
        for seq in self.running.values():
            if not seq.decoding:
                continue
            if seq.index in grants:
                if seq.index in before:
                    plan.resumed.append(seq)
                    plan.decodes_resumed += 1
                continue
            self._held_back[seq.index] = seq
            if seq.index not in before:
                plan.paused.append(seq)
        for seq in self._held_back.values():
            self.decodes.remove(seq)

    # Waiting sequences.

    def _admit(self, plan: Plan, budget: int) -> None:
        """Admit waiting sequences, in the policy's order, until one does not fit."""
        config, cache, waiting = self.config, self.cache, self.policy
        while budget > 0 and len(waiting) and len(self.running) < config.max_num_seqs:
            seq = waiting.peek()
            if self._refused == (seq, cache.epoch):
                break
            found = cache.find(seq)
            computed = len(found) * config.block_size
            want = self._chunk(seq.known - computed)
            if want > budget and not config.enable_chunked_prefill:
                break
            new = min(want, budget)
            reserve = seq.known if config.scheduler_reserve_full_isl else 0
            if not cache.admit(seq, found, computed + new, reserve):
                if reserve and not self.modes.visit_all:
                    self._refused = seq, cache.epoch
                break
            waiting.pop()
            self._start(seq, computed, plan)
            cache.register(seq, computed + new)
            plan.prefills.append(Grant(seq, computed, new))
            budget -= new

    def _start(self, seq: Sequence, computed: int, plan: Plan) -> None:
        seq.ticket = self._next_ticket
        self._next_ticket += 1
        seq.computed = computed
        if seq.cached_tokens is None:
            seq.cached_tokens = computed
            plan.admitted.append(seq)
        self.running[seq.ticket] = self._prefilling[seq.ticket] = seq

    def _chunk(self, tokens: int) -> int:
        """How many of ``tokens`` one sequence may get in a step."""
        most = self.config.long_prefill_token_threshold
        alone = len(self.running) + len(self.policy) <= 1
        return tokens if alone or not 0 < most < tokens else most

    # The step itself.

    def _advance(self, plan: Plan) -> None:
        """Count the scheduled tokens as computed and see who gets a token out of it."""
        decodes = self.decodes
        plan.decodes, plan.context = decodes.count, decodes.context
        plan.context_max = decodes.context_max
        if self.modes.contexts:
            plan.contexts = decodes.contexts()
        plan.finishing = decodes.advance()
        for seq in self._held_back.values():
            decodes.add(seq)
        for seq, computed, new in plan.prefills:
            seq.computed = computed + new
            if seq.computed == seq.known:
                self._end_prefill(seq, plan)
        plan.running, plan.waiting = len(self.running), len(self.policy)
        plan.free_blocks = self.cache.free

    def _end_prefill(self, seq: Sequence, plan: Plan) -> None:
        assert seq.ticket is not None
        del self._prefilling[seq.ticket]
        (plan.first if seq.known == seq.spec.prompt_tokens else plan.resumed).append(seq)
        seq.known += 1
        if seq.known == seq.spec.prompt_tokens + seq.spec.output_tokens:
            plan.finishing.append(seq)
        else:
            self.decodes.add(seq)

    def _listing(self, plan: Plan) -> list[Grant]:
        grants = {grant.seq.index: grant for grant in plan.prefills}
        for seq in self.running.values():
            if seq.decoding:
                grants[seq.index] = Grant(seq, self.decodes.computed(seq), 1)
        return [grants[seq.index] for seq in self.running.values() if seq.index in grants]
