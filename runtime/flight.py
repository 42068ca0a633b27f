"""Drafts under way."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.runtime.sequence import Sequence


@dataclass(slots=True)
class Flight:
    """Drafts of a sequence in a step under way.

    Attributes:
        drafts: how many are verified.
        extra: tokens beyond the first that the step will give; nobody may know before it ends.
        void: the sequence was preempted meanwhile.
    """

    seq: Sequence
    drafts: int
    extra: int
    void: bool = False
