"""What a step of an engine takes beside its operators, each of them timed alone."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.errors import InputError


@dataclass(frozen=True, slots=True)
class HostTime:
    """Seconds of a step beside its operators, linear in what there is to go through.

    Attributes:
        step_s: whatever the step: scheduling, preparing inputs, handing tokens on.
        per_sequence_s: for each sequence in the step.
        per_operator_s: for each operator of the model, where each is launched from Python.
        operator_share: more for each second of operators timed one by one, again and again: in a
            step each finds the caches, and the core its code, as the others left them.

    Raises:
        InputError: a negative or unknown time.
    """

    step_s: float = 0.0
    per_sequence_s: float = 0.0
    per_operator_s: float = 0.0
    operator_share: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) >= 0:
                raise InputError(f"host: {name} must not be negative: {getattr(self, name)}")

    def step_seconds(self, operators: int) -> float:
        """Of any step through a model of ``operators``, whatever is in it."""
        return self.step_s + self.per_operator_s * operators
