"""An engine as a member of a cluster: its state, its role, and what a router may know of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from servesim.graph.batch import BatchShape
from servesim.runtime.instance import EngineOptions, Instance
from servesim.runtime.parallel.build import build_engine
from servesim.runtime.records import RequestRecords, State
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role, encode_part, prefill_part
from servesim.runtime.routers import Router, Snapshot
from servesim.runtime.sequence import Sequence as EngineSequence

#: An index that no request of a run has: whose own blocks are in no cache.
_NOBODY = 1 << 40


class Member:
    """One instance of a cluster.

    Attributes:
        number: its place in the records.
        life: grows when it fails; events of an earlier life are void.
        starting: whether the start of a step is announced.
        coming: requests whose KV will come here.
    """

    def __init__(
        self, number: int, instance: Instance, requests: RequestRecords, options: EngineOptions
    ) -> None:
        self.number = number
        self.instance = _reserving(instance)
        self.engine = build_engine(self.instance, requests, options)
        self.state = State.UP
        self.life = 0
        self.starting = False
        self.coming = 0
        self._token_s: float | None = None

    @property
    def name(self) -> str:
        """What results and the network call it."""
        return self.instance.name

    @property
    def load(self) -> int:
        """Requests running, waiting and coming."""
        return len(self.engine.scheduler.running) + self.engine.waiting + self.coming

    def serves(self, spec: RequestSpec, *, decodes: bool = False) -> bool:
        """Whether ``spec`` may be sent here at all: first, or to decode what others prefilled."""
        instance = self.instance
        right_role = (instance.role is Role.DECODE) == decodes
        right_role &= instance.role is not Role.ENCODE
        return right_role and (spec.model is None or spec.model == instance.model)

    def encodes(self, spec: RequestSpec) -> bool:
        """Whether the images of ``spec`` may be encoded here."""
        instance = self.instance
        right_model = spec.model is None or spec.model == instance.model
        return instance.role is Role.ENCODE and right_model

    def refusal(self, spec: RequestSpec) -> str | None:
        """Why a request could never run here; None if it can."""
        if self.instance.role is Role.ENCODE:
            spec = encode_part(spec)
        if self.instance.role is Role.PREFILL:
            spec = prefill_part(spec)
        return self.engine.refusal(spec)

    def snapshot(self, spec: RequestSpec, needs: Collection[str] = ()) -> Snapshot:
        """What a router may know when it places ``spec``; ``needs`` names what costs time."""
        scheduler = self.engine.scheduler
        return Snapshot(
            self.name,
            len(scheduler.running),
            self.engine.waiting + self.coming,
            scheduler.cache.free,
            scheduler.cache.total,
            self.instance.model,
            self._cached_tokens(spec) if "cached_tokens" in needs else 0,
            self._ttft_s(spec) if "ttft_s" in needs else 0.0,
            self._tpot_s(spec) if "tpot_s" in needs else 0.0,
        )

    def _cached_tokens(self, spec: RequestSpec) -> int:
        scheduler, size = self.engine.scheduler, self.engine.scheduler.cache.block_size
        return len(scheduler.find(EngineSequence(spec, _NOBODY, size))) * size

    def _ttft_s(self, spec: RequestSpec) -> float:
        """Prompt tokens before and of ``spec``, at the pace of a full prefill step."""
        return self._seconds_per_prompt_token() * (self.engine.backlog_tokens + spec.prompt_tokens)

    def _seconds_per_prompt_token(self) -> float:
        if self._token_s is None:
            most = self.engine.config.limits.max_num_batched_tokens
            batch = BatchShape.of_tokens(most)
            self._token_s = self.instance.step_model.seconds(batch) / most
        return self._token_s

    def _tpot_s(self, spec: RequestSpec) -> float:
        """The decode step that ``spec`` would join, all that wait running as well."""
        decodes = self.engine.scheduler.decodes
        sequences = self.load + 1
        each = max(decodes.context // decodes.count if decodes.count else 0, spec.prompt_tokens)
        model = self.instance.step_model
        if not model.needs_contexts:
            return model.decode_seconds(sequences, sequences * each, each)
        contexts = np.full(sequences, each, dtype=np.int64)
        batch = BatchShape((), sequences, sequences * each, each, contexts, drafts=decodes.drafts)
        return model.seconds(batch)


def _reserving(instance: Instance) -> Instance:
    """An instance that hands KV over admits only what fits whole.

    Blocks that wait for a transfer cannot be preempted: a sequence that does not fit beside them
    would be admitted and give way to itself again and again.
    """
    if instance.role is Role.BOTH:
        return instance
    return replace(instance, config=replace(instance.config, scheduler_reserve_full_isl=True))


def chosen(router: Router, spec: RequestSpec, members: Sequence[Member]) -> Member:
    """The one of ``members`` that the router sends ``spec`` to."""
    needs = getattr(router, "needs", ())
    return members[router.choose(spec, [member.snapshot(spec, needs) for member in members])]
