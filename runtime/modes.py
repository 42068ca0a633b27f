"""What a scheduler keeps of its steps, and how it visits sequences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerModes:
    """What does not change any decision.

    Attributes:
        visit_all: visit every running sequence in every step: the plain reference.
        listing: keep all grants of a step in its plan.
        contexts: keep the contexts of the decodes in it.
        sharing: keep how much of them is the same.
    """

    visit_all: bool = False
    listing: bool = False
    contexts: bool = False
    sharing: bool = False


DEFAULT_MODES = SchedulerModes()
