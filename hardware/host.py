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
        per_prefill_operator_s: more for each in a step with prefills, where a kernel is prepared
            anew for each number of tokens.

    Raises:
        InputError: a negative or unknown time.
    """

    step_s: float = 0.0
    per_sequence_s: float = 0.0
    per_operator_s: float = 0.0
    per_prefill_operator_s: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) >= 0:
                raise InputError(f"host: {name} must not be negative: {getattr(self, name)}")

    def step_seconds(self, operators: int) -> float:
        """Of any step through a model of ``operators``, its sequences left out."""
        return self.step_s + self.per_operator_s * operators

    def prefill_seconds(self, operators: int) -> float:
        """What a step with prefills takes more."""
        return self.per_prefill_operator_s * operators
