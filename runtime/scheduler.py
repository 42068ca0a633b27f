"""Which sequences get how many tokens in the next step, decided as vLLM V1 decides it.

There is one rule for prefill and decode: a sequence needs its known tokens less its computed ones.
Running sequences are served first, in the order of admission, then waiting ones, while tokens,
sequences and KV blocks last. Out of blocks, running sequences are preempted: they lose their
blocks and wait to be computed again.

Running sequences are served in one of two ways that decide the same: ``counted`` as long as each
decoding one is sure of its token and its block (``drafted``, where they verify drafts), else
``visited`` one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from servesim.runtime.admission import admit, admit_received
from servesim.runtime.config import EngineConfig
from servesim.runtime.counted import serve_counted
from servesim.runtime.decodes import DecodeSet, ticket_of
from servesim.runtime.drafted import serve_drafted
from servesim.runtime.drafts import Drafts, DrawnDrafts
from servesim.runtime.encoder import encodable
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.grouped import GroupedCache
from servesim.runtime.kv.sharing import SharedBlocks
from servesim.runtime.lora import AdapterSlots
from servesim.runtime.modes import DEFAULT_MODES, SchedulerModes
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.schedulers import SchedulingPolicy
from servesim.runtime.sequence import Sequence
from servesim.runtime.speculative import new_decodes
from servesim.runtime.visited import serve_visited


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
        speculates, draft_slots: whether drafts are verified, and tokens of a step that each
            sequence takes beside its own for them.
        refused: the sequence that found no room, and the epoch of the cache.
        takes_images: whether it knows when images are encoded.
    """

    takes_images = True

    def __init__(
        self,
        config: EngineConfig,
        policy: SchedulingPolicy,
        cache: KVCache,
        modes: SchedulerModes = DEFAULT_MODES,
        drafts: Drafts | None = None,
    ) -> None:
        """Args:
        drafts: of an engine that speculates; drawn if they are not given.
        """
        speculation = config.speculation
        if drafts is None and speculation is not None:
            drafts = DrawnDrafts(speculation, ahead=config.async_scheduling)
        self.config = config
        self.drafts = drafts
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
        self.speculates = speculation is not None
        self.draft_slots = speculation.slots if speculation else 0
        self._lookahead = speculation.lookahead if speculation else 0
        # vLLM has further rules for windows, which are not modelled.
        windows = isinstance(cache, GroupedCache)
        self._drops_block = speculation is not None and speculation.drops_block and not windows
        self.adapters = AdapterSlots(config.max_loras) if config.enable_lora else None
        self._next_ticket = 0
        self.refused: tuple[Sequence, int] | None = None

    def new_decodes(self) -> DecodeSet:
        """A set for decoding sequences."""
        decodes = new_decodes(self.config, self.drafts)
        decodes.sharing = SharedBlocks(self.cache) if self.modes.sharing else None
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
        serve = serve_drafted if self.speculates else serve_counted
        budget = None if self.modes.visit_all else serve(self, plan)
        if budget is None:
            budget = serve_visited(self, plan)
        if not plan.preempted and self.received:
            budget = admit_received(self, plan, budget)
        if not plan.preempted and len(self.policy):
            admit(self, plan, budget)
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
        for flight in plan.flights:
            if flight.seq.decoding:
                self.decodes_of(flight.seq).settle(self.cache, flight)
        if not self.speculates:
            for seq in self.held_back.values():
                self.cache.register(seq, self.decodes_of(seq).computed(seq))
        finished = [seq for seq in plan.finishing if not seq.finished]
        for seq in finished:
            if seq.ticket is not None and not self.speculates:
                self.cache.register(seq, seq.total - 1)
            self._end(seq, keeps=seq.hands_over)
        return finished

    def cancel(self, seq: Sequence) -> None:
        """Forget a sequence that was added, wherever it is; what is under way of it is in vain."""
        if not seq.finished:
            self._end(seq)

    def _end(self, seq: Sequence, *, keeps: bool = False) -> None:
        """Take out a sequence; it ``keeps`` its blocks if it runs."""
        seq.finished = True
        if seq.ticket is None:  # waits, maybe preempted while its last token was under way
            self.policy.remove(seq)
            return
        if seq.decoding:
            self.decodes_of(seq).remove(seq)
        self.held_back.pop(seq.index, None)
        self.prefilling.pop(seq.ticket, None)
        self.started.pop(seq, None)
        if not keeps:
            self.cache.release(seq)
        self._leave(seq)

    def decodes_of(self, seq: Sequence) -> DecodeSet:
        """The set that counts a decoding sequence; not ``decodes`` if its token is under way."""
        return self.decodes

    def blocks_of(self, tokens: int) -> int:
        """Most KV blocks that a sequence of ``tokens`` may want at once."""
        return self.cache.blocks_of(tokens)

    def chunk(self, tokens: int) -> int:
        """How many of ``tokens`` one sequence may get in a step."""
        most = self.config.long_prefill_token_threshold
        alone = len(self.running) + len(self.policy) <= 1
        return tokens if alone or not 0 < most < tokens else most

    def out(self, seq: Sequence, computed: int) -> int:
        """Of the ``computed`` tokens of a running sequence, those whose steps have ended."""
        if seq.index in self.under_way:
            return computed - self.under_way[seq.index]
        if seq.decoding and self.config.async_scheduling and seq.index not in self.held_back:
            return computed - self.decodes_of(seq).tokens_under_way(seq)
        return computed

    def reach(self, tokens: int) -> int:
        """Tokens that the blocks must hold of a sequence that has ``tokens`` after a step."""
        if not self._lookahead:
            return tokens
        return min(tokens + self._lookahead, self.config.longest)

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

    def find(self, seq: Sequence) -> list[int]:
        """Cached blocks that ``seq`` can start from; a drafter on hidden states lacks the last."""
        found = self.cache.find(seq)
        return found[:-1] if self._drops_block else found

    def start(self, seq: Sequence, computed: int, plan: Plan) -> None:
        """Let ``seq`` run, of which ``computed`` tokens are in the cache."""
        seq.ticket = self._next_ticket
        self._next_ticket += 1
        seq.computed = computed
        if seq.total < seq.limit and self.config.async_scheduling:
            seq.overruns = seq.total < self.config.longest
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
        plan.shared_context, plan.repeated_context = decodes.shared
        plan.drafts, before = decodes.verified, decodes.extra_tokens
        plan.finishing = decodes.advance()
        plan.extra_tokens, plan.surplus = decodes.extra_tokens - before, decodes.surplus
        for seq in self.held_back.values():
            decodes.resume(seq)
        for seq, computed, new in plan.prefills:
            seq.computed = min(computed + new, seq.known)
            self.under_way[seq.index] = self.under_way.get(seq.index, 0) + new
            if seq.computed == seq.known:
                self._end_prefill(seq, computed + new - seq.known, plan)
        plan.flights = decodes.flights
        plan.finishing.sort(key=ticket_of)
        plan.running = len(self.running)
        plan.waiting = len(self.policy) + len(self.received)
        plan.free_blocks = self.cache.free
        plan.filled_blocks = self.cache.filled

    def _end_prefill(self, seq: Sequence, padding: int, plan: Plan) -> None:
        assert seq.ticket is not None
        del self.prefilling[seq.ticket]
        (plan.first if seq.known == seq.spec.prompt_tokens else plan.resumed).append(seq)
        seq.known += 1
        last = seq.known == seq.total
        if last:
            plan.finishing.append(seq)
        if not last or seq.overruns or self.speculates:
            self.decodes.add(seq)
            if self.cache.moving:
                self.started[seq] = 1 + self.config.async_scheduling
        if padding:
            self.decodes.pad(seq, padding)

    def _listing(self, plan: Plan) -> list[Grant]:
        grants = {grant.seq.index: grant for grant in plan.prefills}
        for grant in self.decodes.granted(self.running.values()):
            grants[grant.seq.index] = grant
        return [grants[seq.index] for seq in self.running.values() if seq.index in grants]
