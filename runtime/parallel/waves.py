"""Data-parallel ranks that share experts: they take their steps together, in waves.

As in vLLM: while any rank has something to run, every rank runs a step, one without requests a
dummy step, because the experts of each layer need all of them. With CUDA graphs every rank's step
is padded to the largest. Each stage of a wave takes as long as on its slowest rank.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from servesim.errors import InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.runtime.engine import Engine
from servesim.runtime.instance import DEFAULT_OPTIONS, EngineOptions, Instance
from servesim.runtime.parallel.pipeline import PipelineEngine
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.records import RequestRecords
from servesim.runtime.sequence import Sequence as EngineSequence


def wave_shapes(plans: Sequence[Plan | None], *, padded: bool) -> list[BatchShape]:
    """The ranks' batches in one wave, each aware of the others; a dummy step has one token.

    Args:
        padded: to the tokens of the largest.
    """
    shapes = [plan.shape() if plan is not None else BatchShape() for plan in plans]
    tokens = [max(1, shape.tokens) for shape in shapes]
    if padded:
        tokens = [max(tokens)] * len(tokens)
    return [
        replace(shape, padded_tokens=own, group_tokens=sum(tokens))
        for shape, own in zip(shapes, tokens, strict=True)
    ]


class Rank(PipelineEngine):
    """One data-parallel rank: an engine of its own whose steps are those of its wave.

    Whichever rank is started drives the wave; nothing is to be done for the others meanwhile.
    """

    def __init__(
        self, instance: Instance, requests: RequestRecords, options: EngineOptions = DEFAULT_OPTIONS
    ) -> None:
        if not isinstance(instance.step_model, StagedStepModel):
            instance = replace(instance, step_model=StagedStepModel((instance.step_model,)))
        super().__init__(instance, requests, options)
        self.wave_name = instance.wave
        self.wave = Wave([self])

    @property
    def idle(self) -> bool:
        """Whether the wave stands still."""
        return self.wave.idle

    def run(self, now: float, horizon: float) -> float | None:
        """Start the wave, unless another rank has; returns its end to who started it."""
        return None if self.wave.awaited else self.wave.run(now, horizon)

    def complete(self) -> list[EngineSequence]:
        """End the oldest step of every rank; returns all sequences that finished."""
        return self.wave.complete()

    def prefills(self) -> tuple[float, float, list[Grant]]:
        """Start, end and prefills of the oldest step, of all ranks: they are one step."""
        start, end, _ = super().prefills()
        return start, end, [g for rank in self.wave.ranks for g in rank.oldest.plan.prefills]

    def fail(self, now: float) -> list[EngineSequence]:
        """Ranks in lock step cannot go one by one.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{self.records.name}: a rank in lock step cannot fail alone")

    def next_plan(self, now: float) -> Plan | None:
        """This rank's part of the next wave; None for a dummy step."""
        return self._schedule(now, now)

    def launch(self, plan: Plan | None, now: float, times: list[float], hop: float) -> float:
        """Send its part through the stages; returns when it is out."""
        if plan is not None:
            return self._launch(plan, now, times, hop)
        scheduler = self.scheduler
        idle = Plan(
            running=len(scheduler.running),
            waiting=len(scheduler.policy) + len(scheduler.received),
            free_blocks=scheduler.cache.free,
            filled_blocks=scheduler.cache.filled,
        )
        return self._launch(idle, now, times, hop)

    def end_own(self) -> list[EngineSequence]:
        """End this rank's oldest step."""
        return super().complete()

    def require_idle(self) -> None:
        """Refuse to stop while requests wait.

        Raises:
            ServesimError: requests wait that can never be admitted.
        """
        self._require_idle()


class Wave:
    """Ranks in lock step.

    Attributes:
        awaited: somebody was told when the oldest step ends, and will end it.
    """

    def __init__(self, ranks: Sequence[Rank]) -> None:
        self.ranks = list(ranks)
        self._padded = not ranks[0].config.enforce_eager
        self._ends: deque[float] = deque()
        self.awaited = False
        for rank in ranks:
            rank.wave = self

    @property
    def idle(self) -> bool:
        """Whether no step is under way on any rank."""
        return not self._ends

    def run(self, now: float, horizon: float) -> float | None:
        """As ``Engine.run``, for all ranks."""
        while True:
            self._fill(now)
            if not self._ends:
                for rank in self.ranks:
                    rank.require_idle()
                return None
            if any(rank.told() for rank in self.ranks) or self._ends[0] >= horizon:
                self.awaited = True
                return self._ends[0]
            now = self._ends[0]
            self.complete()

    def complete(self) -> list[EngineSequence]:
        """End the oldest step of every rank."""
        self._ends.popleft()
        self.awaited = False
        return [seq for rank in self.ranks for seq in rank.end_own()]

    def _fill(self, now: float) -> None:
        while len(self._ends) < len(self.ranks[0].stages.stages):
            plans = [rank.next_plan(now) for rank in self.ranks]
            if all(plan is None for plan in plans):
                return
            shapes = wave_shapes(plans, padded=self._padded)
            by_rank = [
                rank.prepared(plan or Plan(), now, rank.stages.stage_seconds(shape))
                for rank, plan, shape in zip(self.ranks, plans, shapes, strict=True)
            ]
            slowest = [max(times) for times in zip(*by_rank, strict=True)]
            hop = self.ranks[0].stages.hop_seconds(max(shape.padded_tokens for shape in shapes))
            ends = [
                rank.launch(plan, now, slowest, hop)
                for rank, plan in zip(self.ranks, plans, strict=True)
            ]
            self._ends.append(ends[0])


def join_waves(engines: Iterable[Engine]) -> None:
    """Let the ranks among ``engines`` that belong to one wave take their steps together.

    Raises:
        InputError: ranks of one wave with different numbers of stages.
    """
    named: dict[str, list[Rank]] = {}
    for engine in engines:
        if isinstance(engine, Rank):
            named.setdefault(engine.wave_name, []).append(engine)
    for name, ranks in named.items():
        if len({len(rank.stages.stages) for rank in ranks}) > 1:
            raise InputError(f"{name}: ranks in lock step need equally many stages")
        Wave(ranks)
