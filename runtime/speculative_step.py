"""How long a step takes that verifies drafts, and makes the next ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servesim.graph.batch import BatchShape
from servesim.hardware.cost import Source
from servesim.runtime.step_model import CompiledStepModel, OpCost


@dataclass(frozen=True)
class SpeculativeStepModel:
    """A step of the target over every decode's drafts, then the drafter's passes one after another.

    The drafter's first pass takes all tokens of the step, so that it knows what the target knows;
    each further pass adds a token to every sequence.

    Attributes:
        target: of the model served.
        drafts: tokens drafted for each decoding sequence.
        drafter: of the draft model or head; None where drafting takes the device no time.
    """

    target: CompiledStepModel
    drafts: int
    drafter: CompiledStepModel | None = None

    @property
    def needs_contexts(self) -> bool:
        """Whether target or drafter looks at every context."""
        return self.target.needs_contexts or bool(self.drafter and self.drafter.needs_contexts)

    @property
    def counts_sharing(self) -> bool:
        """Whether shared KV blocks take the target less time."""
        return self.target.counts_sharing

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``, whose decodes verify its drafts."""
        seconds = self.target.seconds(batch)
        if self.drafter is None or not batch.tokens:
            return seconds
        seconds += self.drafter.seconds(batch)
        if self.drafts > 1:
            seconds += (self.drafts - 1) * self._pass_seconds(batch)
        return seconds

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only, each of which verifies all possible drafts."""
        return self.seconds(BatchShape((), decodes, context, context_max, drafts=self.drafts))

    def cost_breakdown(self, batch: BatchShape) -> tuple[OpCost, ...]:
        """What each operator takes of a step, the drafter's all as one."""
        rows = self.target.cost_breakdown(batch)
        if self.drafter is None or not batch.tokens:
            return rows
        passes = [*self.drafter.cost_breakdown(batch)]
        passes += self.drafter.cost_breakdown(_one_each(batch)) * (self.drafts - 1)
        drafting = dict.fromkeys(Source, 0.0)
        for row in passes:
            drafting[row.source] += row.seconds
        device = self.drafter.placement.default
        return (
            *rows,
            *(
                OpCost("drafting", device, self.drafts, seconds, source)
                for source, seconds in drafting.items()
                if seconds
            ),
        )

    def source_seconds(self) -> dict[Source, float]:
        """Seconds of all answers so far by source."""
        found = self.target.source_seconds()
        if self.drafter is not None:
            for source, seconds in self.drafter.source_seconds().items():
                found[source] += seconds
        return found

    def reset(self) -> None:
        """Forget the seconds answered so far."""
        self.target.reset()
        if self.drafter is not None:
            self.drafter.reset()

    def _pass_seconds(self, batch: BatchShape) -> float:
        assert self.drafter is not None
        return self.drafter.seconds(_one_each(batch))


def _one_each(batch: BatchShape) -> BatchShape:
    """A decode for every sequence of ``batch``: one pass of drafting."""
    ends = [new + context for new, context in batch.prefills]
    contexts = batch.contexts
    if contexts is not None:
        contexts = np.concatenate([contexts, np.array(ends, dtype=np.int64)])
    return BatchShape(
        (),
        batch.decodes + len(batch.prefills),
        batch.decode_context + sum(ends),
        max(batch.decode_context_max, *ends, 0),
        contexts,
        shared_context=batch.shared_context,
        repeated_context=batch.repeated_context,
    )
