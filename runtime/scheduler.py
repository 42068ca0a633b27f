"""Which sequences get how many tokens in the next step, decided as vLLM V1 decides it.

There is one rule for prefill and decode: a sequence needs its known tokens less its computed ones.
Running sequences are served first, in the order of admission, then waiting ones, while tokens,
sequences and KV blocks last. Out of blocks, running sequences are preempted: they lose their
blocks and wait to be computed again.

Running sequences are served in one of two ways that decide the same: ``counted`` as long as each
decoding one is sure of its token and its block, else ``visited`` one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from servesim.runtime.config import EngineConfig
from servesim.runtime.counted import serve_counted
from servesim.runtime.decodes import DecodeSet, ticket_of
from servesim.runtime.encoder import encodable
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.sharing import SharedBlocks
from servesim.runtime.lora import AdapterSlots
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.schedulers import SchedulingPolicy
from servesim.runtime.sequence import Sequence
from servesim.runtime.speculative import new_decodes
from servesim.runtime.visited import serve_visited


@dataclass(frozen=True, slots=True)
class SchedulerModes:
    """What does not change any decision.

    Attributes:
        visit_all: visit every running sequence in every step: the plain reference.
        listing: keep all grants of a step in its plan.
        contexts: keep the contexts of the decodes in it.
        sharing: keep how much of them is the same.
    """

    visit_all: bool = False
    listing: bool = False
    contexts: bool = False
    sharing: bool = False


DEFAULT_MODES = SchedulerModes()


class Scheduler:
    """Running and waiting sequences over a KV cache.

    Attributes:
        limits: most sequences, and most tokens of a step.
        running: by ticket, in the order of admission, until the end of their last step.
        decodes: those of them that gain a token every step.
        prefilling: those that have several known tokens to compute, by ticket too.
        held_back: those of ``decodes`` that got no token in the last step, by index.
        under_way: tokens of prefills whose step has not ended, by index of their sequence.
        started: decodes whose prefill may be not all out yet, and for how many more steps.
        received: sequences whose KV came from another instance: they hold their blocks, lack only
            their latest token, and are admitted before all others.
    """

    def __init__(
        self,
        config: EngineConfig,
        policy: SchedulingPolicy,
        cache: KVCache,
        modes: SchedulerModes = DEFAULT_MODES,
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.policy = policy
        self.cache = cache
        self.modes = modes
        self.running: dict[int, Sequence] = {}
        self.decodes = self.new_decodes()
        self.prefilling: dict[int, Sequence] = {}
        self.held_back: dict[int, Sequence] = {}
        self.received: deque[Sequence] = deque()
        self.under_way: dict[int, int] = {}
        self.started: dict[Sequence, int] = {}
        self.adapters = AdapterSlots(config.max_loras) if config.enable_lora else None
        self._next_ticket = 0
        self._refused: tuple[Sequence, int] | None = None  # found no room in this epoch of the KV

    def new_decodes(self) -> DecodeSet:
        """A set for decoding sequences."""
        decodes = new_decodes(self.config)
        if self.modes.sharing:
            decodes.sharing = SharedBlocks(self.cache)
        return decodes

    def add(self, seq: Sequence) -> None:
        """Let ``seq`` wait for admission."""
        self.policy.add(seq)

    @property
    def busy(self) -> bool:
        """Whether any sequence runs or waits."""
        return bool(self.running or self.received) or len(self.policy) > 0

    def schedule(self) -> Plan:
        """Decide the next step and count its tokens as computed."""
        plan = Plan()
        self.cache.start_step()
        budget = None if self.modes.visit_all else serve_counted(self, plan)
        if budget is None:
            budget = serve_visited(self, plan)
        if not plan.preempted and self.received:
            budget = self._admit_received(plan, budget)
        if not plan.preempted and len(self.policy):
            self._admit(plan, budget)
        if self.modes.listing:
            plan.listing = self._listing(plan)
        self._advance(plan)
        return plan

    def update(self, plan: Plan) -> list[Sequence]:
        """Account for a step that has ended; returns the sequences that finished, in order."""
        for seq, _, new in plan.prefills:
            self.under_way[seq.index] -= new
            if not self.under_way[seq.index]:
                del self.under_way[seq.index]
        for seq in self.held_back.values():
            self.cache.register(seq, self.decodes_of(seq).computed(seq))
        for seq in plan.finishing:
            if seq.ticket is None:  # preempted while its last token was under way
                self.policy.remove(seq)
            else:
                self.cache.register(seq, seq.computed)
                if not seq.hands_over:
                    self.cache.release(seq)
                self._leave(seq)
        return plan.finishing

    def decodes_of(self, seq: Sequence) -> DecodeSet:
        """The set that counts a decoding sequence; not ``decodes`` if its token is under way."""
        return self.decodes

    def chunk(self, tokens: int) -> int:
        """How many of ``tokens`` one sequence may get in a step."""
        most = self.config.long_prefill_token_threshold
        alone = len(self.running) + len(self.policy) <= 1
        return tokens if alone or not 0 < most < tokens else most

    def out(self, seq: Sequence, computed: int) -> int:
        """Of the ``computed`` tokens of a running sequence, those whose steps have ended."""
        if seq.index in self.under_way:
            return computed - self.under_way[seq.index]
        decodes = self.config.async_scheduling and seq.decoding and seq.index not in self.held_back
        return computed - decodes

    def possible(self, grant: Grant, others: Iterable[Grant]) -> Grant:
        """``grant`` without what the step cannot compute of it.

        Recurrent states are kept only where a step ends, and what lies behind an image waits until
        that can be encoded.
        """
        new = self.cache.cut(*grant)
        if new != grant.new:
            grant = grant._replace(new=new)
        if not grant.seq.spec.images:
            return grant
        most = self.limits.max_num_batched_tokens
        return grant._replace(new=encodable(grant, others, most))

    def preempt(self, seq: Sequence, plan: Plan) -> None:
        """Take its place and its blocks from a running sequence and let it wait."""
        assert seq.ticket is not None
        if seq.decoding:
            self.decodes_of(seq).remove(seq)
            if self.held_back.pop(seq.index, None) is None:
                plan.paused.append(seq)
        self.prefilling.pop(seq.ticket, None)
        self.cache.release(seq, returns=True)
        self._leave(seq)
        seq.ticket = None
        seq.computed = 0
        seq.preemptions += 1
        self.policy.put_back(seq)
        plan.preempted.append(seq)

    def _admit_received(self, plan: Plan, budget: int) -> int:
        """Admit what came from other instances; returns the tokens left in the step."""
        most = self.limits.max_num_seqs
        while self.received and budget > 0 and len(self.running) < most:
            seq = self.received.popleft()
            self._start(seq, seq.computed, plan)
            self.cache.register(seq, seq.known)
            plan.prefills.append(Grant(seq, seq.computed, seq.known - seq.computed))
            budget -= 1
        return budget

    def _admit(self, plan: Plan, budget: int) -> None:
        """Admit waiting sequences, in the policy's order, until one does not fit."""
        config, cache, waiting = self.config, self.cache, self.policy
        most = self.limits.max_num_seqs
        if self.adapters is not None:
            self.adapters.start_step(self._served(plan))
        passed: list[Sequence] = []  # over, for want of a slot for their adapter
        while budget > 0 and len(waiting) and len(self.running) < most:
            seq = waiting.peek()
            if seq.known == seq.spec.prompt_tokens + seq.spec.output_tokens:
                break  # it gave way while its last token was under way, which ends it
            if self.adapters is not None and not self.adapters.admits(seq):
                passed.append(waiting.pop())
                continue
            if self._refused == (seq, cache.epoch):
                break
            found = cache.find(seq)
            computed = len(found) * config.block_size
            computed += cache.recall(seq, computed)
            want = self.chunk(seq.known - computed)
            if want > budget and not config.enable_chunked_prefill:
                break
            new = self.possible(Grant(seq, computed, min(want, budget)), plan.prefills).new
            if not new:
                break
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
        for seq in reversed(passed):
            waiting.put_back(seq)

    def _served(self, plan: Plan) -> Iterator[Sequence]:
        """The running sequences that are in a step so far."""
        yield from (grant.seq for grant in plan.prefills)
        for seq in self.running.values():
            if seq.decoding and seq in self.decodes:
                yield seq

    def _start(self, seq: Sequence, computed: int, plan: Plan) -> None:
        seq.ticket = self._next_ticket
        self._next_ticket += 1
        seq.computed = computed
        if seq.cached_tokens is None:
            seq.cached_tokens = computed
            plan.admitted.append(seq)
        self.running[seq.ticket] = self.prefilling[seq.ticket] = seq
        if self.adapters is not None:
            plan.loaded_adapters += self.adapters.enter(seq)

    def _leave(self, seq: Sequence) -> None:
        assert seq.ticket is not None
        del self.running[seq.ticket]
        if self.adapters is not None:
            self.adapters.leave(seq)

    def _advance(self, plan: Plan) -> None:
        """Count the scheduled tokens as computed and see who gets a token out of it."""
        decodes = self.decodes
        plan.decodes, plan.context = decodes.count, decodes.context
        plan.context_max = decodes.context_max
        if self.modes.contexts:
            plan.contexts = decodes.contexts()
        if decodes.sharing is not None:
            plan.shared_context = decodes.sharing.shared_tokens
            plan.repeated_context = decodes.sharing.repeated_tokens
        plan.drafts, before = decodes.drafts, decodes.extra_tokens
        plan.finishing = decodes.advance()
        plan.extra_tokens = decodes.extra_tokens - before
        for seq in self.held_back.values():
            decodes.add(seq)
        for seq, computed, new in plan.prefills:
            seq.computed = computed + new
            self.under_way[seq.index] = self.under_way.get(seq.index, 0) + new
            if seq.computed == seq.known:
                self._end_prefill(seq, plan)
        plan.finishing.sort(key=ticket_of)
        plan.running = len(self.running)
        plan.waiting = len(self.policy) + len(self.received)
        plan.free_blocks = self.cache.free
        plan.filled_blocks = self.cache.filled

    def _end_prefill(self, seq: Sequence, plan: Plan) -> None:
        assert seq.ticket is not None
        del self.prefilling[seq.ticket]
        (plan.first if seq.known == seq.spec.prompt_tokens else plan.resumed).append(seq)
        seq.known += 1
        if seq.known == seq.spec.prompt_tokens + seq.spec.output_tokens:
            plan.finishing.append(seq)
        else:
            self.decodes.add(seq)
            if self.cache.moving:
                self.started[seq] = 1 + self.config.async_scheduling

    def _listing(self, plan: Plan) -> list[Grant]:
        grants = {grant.seq.index: grant for grant in plan.prefills}
        for seq in self.running.values():
            if seq.decoding:
                grants[seq.index] = Grant(seq, self.decodes.computed(seq), 1)
        return [grants[seq.index] for seq in self.running.values() if seq.index in grants]
