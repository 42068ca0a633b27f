"""What an engine's own process takes of a step, beside the operators."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.errors import InputError


@dataclass(frozen=True, slots=True)
class HostTime:
    """Host seconds of a step, linear in what the host goes through one by one.

    Attributes:
        step_s: whatever the step: scheduling, preparing inputs, handing tokens on.
        per_sequence_s: for each sequence in the step.
        per_operator_s: for each operator of the model, where each is launched from Python.

    Raises:
        InputError: a negative or unknown time.
    """

    step_s: float = 0.0
    per_sequence_s: float = 0.0
    per_operator_s: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) >= 0:
                raise InputError(f"host: {name} must not be negative: {getattr(self, name)}")

    def seconds(self, sequences: int, operators: int) -> float:
        """Of a step of ``sequences`` through a model of ``operators``."""
        return self.step_s + self.per_sequence_s * sequences + self.per_operator_s * operators
