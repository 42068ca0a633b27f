"""What the engine asks of a machine: how long a step with a given batch takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from servesim.graph.batch import BatchShape


class StepModel(Protocol):
    """How long a step takes.

    Pure: equal batches take equal time. It is asked once a step, so an implementation computes
    with plain Python numbers.
    """

    @property
    def needs_contexts(self) -> bool:
        """Whether ``BatchShape.contexts`` must be filled (windowed or chunked attention)."""

    @property
    def counts_sharing(self) -> bool:
        """Whether ``shared_context`` and ``repeated_context`` of a batch should be filled."""

    def seconds(self, batch: BatchShape) -> float:
        """Seconds the device is busy with one step of ``batch``."""

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """``seconds`` of a batch of decodes only; the hot path.

        Args:
            decodes: sequences with one new token each.
            context: sum of their contexts before the step.
            context_max: the largest of their contexts.
        """


@dataclass(frozen=True, slots=True)
class LinearStepModel:
    """A device without hardware: times are linear in the batch and can be checked by hand.

    A step takes ``base_s`` plus ``per_token_s`` for each new token, ``per_sequence_s`` for each
    sequence and ``per_context_s`` for each token of context that the decodes read, less
    ``repeated_saves_s`` for each that they read again.
    """

    base_s: float = 0.0
    per_token_s: float = 0.0
    per_sequence_s: float = 0.0
    per_context_s: float = 0.0
    repeated_saves_s: float = 0.0

    @property
    def needs_contexts(self) -> bool:
        """Never: only sums count."""
        return False

    @property
    def counts_sharing(self) -> bool:
        """Whether reading again takes less time."""
        return self.repeated_saves_s > 0.0

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``."""
        seconds = self._linear(batch.tokens, batch.sequences, batch.decode_context)
        return seconds - self.repeated_saves_s * batch.repeated_context

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only."""
        return self._linear(decodes, decodes, context)

    def _linear(self, tokens: int, sequences: int, context: int) -> float:
        return (
            self.base_s
            + self.per_token_s * tokens
            + self.per_sequence_s * sequences
            + self.per_context_s * context
        )
