"""What operators may know of a run's steps: sums over each step's batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servesim.graph.batch import BatchShape
from servesim.runtime.steps import StepRecords

Values = npt.NDArray[np.float64]

#: The sums over a batch that contextual operators are linear in, beside whether there is anything
#: to prefill or to decode: those that have weights (MLA's) read them once.
SUMS = (
    "prefill_tokens",
    "prefills",
    "decodes",
    "decode_context",
    "prefill_context",
    "prefill_pairs",
)


@dataclass(frozen=True, slots=True)
class StepColumns:
    """Sums over the batch of each step, one step a row.

    A row may stand for several joined steps; it then holds their mean.

    Attributes:
        repeated_context: of ``decode_context``, what was read again, where all of it is seen.
        shared_context: of it, what several decodes have, each counted once.
    """

    prefill_tokens: Values
    prefills: Values
    decodes: Values
    decode_context: Values
    prefill_context: Values
    prefill_pairs: Values
    repeated_context: Values
    shared_context: Values

    @classmethod
    def of(cls, steps: StepRecords) -> StepColumns:
        """The columns of an engine's records."""
        count = np.maximum(steps.column("steps"), 1.0)
        names = (*SUMS, "repeated_context", "shared_context")
        return cls(*(steps.column(name) / count for name in names))

    @property
    def tokens(self) -> Values:
        """New tokens."""
        return self.prefill_tokens + self.decodes

    @property
    def sequences(self) -> Values:
        """Sequences."""
        return self.prefills + self.decodes

    def features(self, window: float | None) -> Values:
        """(rows, 8): what contextual operators are linear in, contexts clipped to ``window``.

        The last two say whether there are prefills, and decodes. Clipping takes the mean context
        of a row's sequences.
        """
        decode, prefill, pairs = self.decode_context, self.prefill_context, self.prefill_pairs
        if window is not None:
            decode = np.minimum(decode, self.decodes * (window - 1))
            pairs = np.minimum(pairs, self.prefill_tokens * window)
            prefill = np.minimum(prefill, self.prefills * window)
        sums = (self.prefill_tokens, self.prefills, self.decodes, decode, prefill, pairs)
        there = (np.minimum(self.prefills, 1.0), np.minimum(self.decodes, 1.0))
        return np.column_stack((*sums, *there))


def sums_of(batch: BatchShape) -> tuple[float, ...]:
    """A batch as the fields of ``StepColumns``, in the order of ``SUMS``."""
    prefills = batch.prefills
    return (
        float(sum(new for new, _ in prefills)),
        float(len(prefills)),
        float(batch.decodes),
        float(batch.decode_context),
        float(sum(context for _, context in prefills)),
        float(sum(new * context + new * (new + 1) // 2 for new, context in prefills)),
    )


def features_of(sums: tuple[float, ...], window: float | None = None) -> tuple[float, ...]:
    """``StepColumns.features`` of one row: ``sums`` with contexts clipped to ``window``."""
    tokens, prefills, decodes, decode, prefill, pairs = sums
    there = (min(prefills, 1.0), min(decodes, 1.0))
    if window is None:
        return *sums, *there
    return (
        tokens,
        prefills,
        decodes,
        min(decode, decodes * (window - 1)),
        min(prefill, prefills * window),
        min(pairs, tokens * window),
        *there,
    )
