"""Scheduling policies, one file each: who is admitted next, and who gives way."""

from __future__ import annotations

from typing import Protocol

from servesim.registry import Registry
from servesim.runtime.sequence import Sequence


class SchedulingPolicy(Protocol):
    """The waiting queue and the choice of victims; sees neither the clock nor output lengths."""

    def __len__(self) -> int:
        """Sequences waiting."""

    def add(self, seq: Sequence) -> None:
        """Queue a new sequence."""

    def put_back(self, seq: Sequence) -> None:
        """Queue a sequence that was preempted."""

    def peek(self) -> Sequence:
        """The sequence to admit next; at least one must wait."""

    def pop(self) -> Sequence:
        """Take out the sequence to admit next."""

    def remove(self, seq: Sequence) -> None:
        """Take out a sequence that needs no admission any more."""

    def victim(self, running: dict[int, Sequence]) -> Sequence:
        """The running sequence to preempt; ``running`` is in the order of admission."""


SCHEDULERS: Registry[SchedulingPolicy] = Registry(
    "scheduling policy", "servesim.runtime.schedulers"
)
