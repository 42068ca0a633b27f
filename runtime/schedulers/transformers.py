"""The schedulers of continuous batching in Hugging Face transformers: 5.20 to 5.23, and 5.17.

A request is decoding from the moment its last prompt token is scheduled. One of two kinds of
running requests is served first, then the other, then those that wait: the first ones admitted
first. Whoever finds no KV blocks is passed over, and so one that waits may overtake another. When
a running request was passed over, those admitted last of these lose their blocks and wait again,
at the end of the queue, until the others' next tokens fit; then nobody is admitted before a request
has finished. While too few blocks are free, prefills run only where nothing else does.

Source: ``generation/continuous_batching/{scheduler,offloading_manager}.py`` of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from servesim.errors import UnsupportedError
from servesim.runtime.config import EngineConfig
from servesim.runtime.kv.cache import KVCache, blocks_for
from servesim.runtime.kv.counting import CountingCache
from servesim.runtime.modes import DEFAULT_MODES, SchedulerModes
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.scheduler import Scheduler
from servesim.runtime.schedulers import SCHEDULERS
from servesim.runtime.schedulers.fcfs import FirstComeFirstServed
from servesim.runtime.sequence import Sequence
from servesim.runtime.visited import hold_back


@SCHEDULERS.register("transformers-fifo")
@dataclass(frozen=True)
class TransformersFifo(FirstComeFirstServed):
    """The default of transformers: decodes first.

    Attributes:
        safety_margin: share of the KV blocks that must be free for prefills beside others.
        prefill_first: serve running prefills before decodes.
        generous: as 5.17 does, look at the free blocks before each sequence, not once a step, and
            give whoever needs blocks more than it needs.
    """

    safety_margin: float = 0.15
    prefill_first: bool = False
    generous: bool = False

    def put_back(self, seq: Sequence) -> None:
        """Queue at the back, as those that are new."""
        self.waiting.append(seq)

    def scheduler(
        self, config: EngineConfig, cache: KVCache, modes: SchedulerModes = DEFAULT_MODES
    ) -> Scheduler:
        """What decides by these rules.

        Raises:
            UnsupportedError: an option that transformers does not have, or that is not modelled.
        """
        _require_plain(config, cache)
        return _TransformersScheduler(config, self, cache, modes)


@SCHEDULERS.register("transformers-prefill-first")
@dataclass(frozen=True)
class TransformersPrefillFirst(TransformersFifo):
    """Its other one: prompts under way before decodes, and no margin."""

    safety_margin: float = 0.0
    prefill_first: bool = True


@SCHEDULERS.register("transformers-fifo-5.17")
@dataclass(frozen=True)
class TransformersFifo517(TransformersFifo):
    """The default of 5.17."""

    generous: bool = True


class _TransformersScheduler(Scheduler):
    """Sequences over a KV cache without prefix sharing."""

    policy: TransformersFifo
    takes_images = False

    def __init__(
        self,
        config: EngineConfig,
        policy: TransformersFifo,
        cache: KVCache,
        modes: SchedulerModes,
    ) -> None:
        super().__init__(config, policy, cache, modes)
        self._closed = False  # nobody is admitted until a sequence has finished

    def schedule(self) -> Plan:
        """Decide the next step and count its tokens as computed."""
        plan = Plan()
        grants, starved, failed = self._serve(plan)
        while not grants and failed and self._evict(starved, plan):
            grants, starved, failed = self._serve(plan)
        if grants:
            self._evict(starved, plan)
        hold_back(self, plan, {grant.seq.index: grant for grant in grants})
        plan.prefills = [grant for grant in grants if not grant.seq.decoding]
        if self.modes.listing:
            plan.listing = grants
        self._advance(plan)
        if len(plan.finishing) > 1:  # in the order of the step
            places = {grant.seq.index: i for i, grant in enumerate(grants)}
            plan.finishing.sort(key=lambda seq: places[seq.index])
        return plan

    def update(self, plan: Plan) -> list[Sequence]:
        """Account for a step that has ended; returns the sequences that finished, in order."""
        finished = super().update(plan)
        if finished:
            self._closed = False
        return finished

    def cancel(self, seq: Sequence) -> None:
        """Forget a sequence; if none runs any more, others are admitted again.

        There transformers waits forever for one to finish.
        """
        super().cancel(seq)
        if not self.running:
            self._closed = False

    def blocks_of(self, tokens: int) -> int:
        """Most KV blocks that a sequence of ``tokens`` may want at once."""
        return blocks_for(self._covered(tokens, 0), self.cache.block_size)

    def _serve(self, plan: Plan) -> tuple[list[Grant], list[Grant], bool]:
        """A round through all sequences.

        Returns:
            What each gets, what running ones would have got had there been blocks, and whether
            any sequence found none.
        """
        limits, cache, each = self.limits, self.cache, self.policy.generous
        short = self._short
        grants: list[Grant] = []
        starved: list[Grant] = []
        admitted: list[Sequence] = []
        budget, failed = limits.max_num_batched_tokens, False
        for seq in self._candidates():
            short = self._short if each else short
            if short and grants and not seq.decoding:
                break
            grant = self._wanted(seq, budget)
            if seq.ticket is not None:
                fits = cache.grow(seq, self._reach(grant))
            elif not cache.free:
                failed = True
                break  # nor will any other that waits find a block
            else:
                fits = cache.admit(seq, [], self._reach(grant), 0)
            if not fits:
                failed = True
                if seq.ticket is not None:
                    starved.append(grant)
                continue
            if seq.ticket is None:
                admitted.append(seq)
                self.start(seq, 0, plan)
            grants.append(grant)
            budget -= grant.new
            if not budget or len(grants) == limits.max_num_seqs:
                break
        for seq in admitted:
            self.policy.remove(seq)
        return grants, starved, failed

    def _candidates(self) -> Iterator[Sequence]:
        """All sequences in the order in which they are served."""
        running = list(self.running.values())
        prefills = [seq for seq in running if not seq.decoding]
        decodes = [seq for seq in running if seq.decoding]
        parts = (prefills, decodes) if self.policy.prefill_first else (decodes, prefills)
        waiting = () if self._closed else self.policy.waiting
        return chain(*parts, waiting)

    def _wanted(self, seq: Sequence, budget: int) -> Grant:
        """What a sequence gets if it finds blocks."""
        if seq.decoding:
            return Grant(seq, self.decodes.computed(seq), 1)
        return Grant(seq, seq.computed, min(seq.known - seq.computed, budget))

    def _evict(self, starved: list[Grant], plan: Plan) -> bool:
        """Let sequences wait again until what the other starved ones need is free.

        Returns:
            Whether any does.
        """
        free, missing = self.cache.free, sum(map(self._missing, starved))
        victims: list[Sequence] = []
        while starved and len(self.running) - len(victims) > 1 and missing > free:
            grant = starved.pop()
            victims.append(grant.seq)
            missing -= self._missing(grant)
            free += grant.seq.held
        for seq in reversed(victims):
            self.preempt(seq, plan)
        self._closed = self._closed or bool(victims)
        return bool(victims)

    def _missing(self, grant: Grant) -> int:
        """KV blocks that a running sequence lacks."""
        return blocks_for(self._reach(grant), self.cache.block_size) - grant.seq.held

    def _reach(self, grant: Grant) -> int:
        """Tokens that the blocks of a sequence are to hold."""
        return self._covered(grant.computed + grant.new, grant.seq.held)

    def _covered(self, tokens: int, held: int) -> int:
        """Tokens for which a sequence of ``tokens`` that has ``held`` blocks wants some."""
        size = self.cache.block_size
        if not self.policy.generous or (held and tokens <= held * size):
            return tokens
        return size * ((tokens + 1) // size + 1)

    @property
    def _short(self) -> bool:
        """Whether too few blocks are free for prefills beside others."""
        return self.cache.free / self.cache.total < self.policy.safety_margin


def _require_plain(config: EngineConfig, cache: KVCache) -> None:
    given = {
        "async_scheduling": config.async_scheduling,
        "enable_prefix_caching": config.enable_prefix_caching,
        "enable_lora": config.enable_lora,
        "long_prefill_token_threshold": config.long_prefill_token_threshold > 0,
        "speculative_config": config.speculative_config is not None,
        "pipeline_parallel_size": config.pipeline_parallel_size > 1,
        "enable_chunked_prefill": not config.enable_chunked_prefill,
    }
    for name, refused in given.items():
        if refused:
            value = getattr(config, name)
            raise UnsupportedError(
                f"{name} = {value}: not modelled with scheduling_policy {config.scheduling_policy}"
            )
    if not isinstance(cache, CountingCache):
        raise UnsupportedError(
            f"scheduling_policy {config.scheduling_policy} is modelled for layers that keep every "
            "token, in one memory"
        )
