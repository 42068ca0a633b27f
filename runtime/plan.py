"""One step as a scheduler decided it."""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servesim.graph.batch import BatchShape
from servesim.graph.work import attended_pairs
from servesim.runtime.flight import Flight
from servesim.runtime.sequence import Sequence


class Grant(NamedTuple):
    """What a sequence gets in a step: ``new`` tokens after ``computed`` ones."""

    seq: Sequence
    computed: int
    new: int


@dataclass(slots=True)
class Plan:
    """One step as scheduled.

    Attributes:
        prefills: what each sequence that still computes known tokens gets.
        decodes, context, context_max: decoding sequences, and sum and maximum of their computed
            tokens before the step; ``contexts`` one by one if the step model needs them.
        shared_context, repeated_context: of their contexts, as in ``BatchShape``, if it asks.
        admitted: sequences admitted for the first time.
        first: sequences that get their first token.
        paused: sequences that got a token in the step before and get none in this one.
        resumed: sequences that get a token again after a pause; ``decodes_resumed``, how many of
            them are among the decodes.
        drafts: tokens beside its latest that each decode verifies, in the mean.
        extra_tokens: tokens that decodes gain beyond one each, less the ``surplus`` ones: decodes
            that gain none, as they were over when the step began.
        flights: drafts that it verifies, sequence by sequence.
        loaded_adapters: LoRA adapters that must be brought to the device first.
        finishing: sequences that get their last token.
        preempted: sequences that lost their blocks.
        listing: all grants in vLLM's order, if the scheduler keeps them.
        running, waiting, free_blocks, filled_blocks: after scheduling.
    """

    prefills: list[Grant] = field(default_factory=list)
    decodes: int = 0
    context: int = 0
    context_max: int = 0
    contexts: npt.NDArray[np.int64] | None = None
    shared_context: int = 0
    repeated_context: int = 0
    admitted: list[Sequence] = field(default_factory=list)
    first: list[Sequence] = field(default_factory=list)
    paused: list[Sequence] = field(default_factory=list)
    resumed: list[Sequence] = field(default_factory=list)
    decodes_resumed: int = 0
    drafts: int = 0
    extra_tokens: int = 0
    surplus: int = 0
    flights: Listed[Flight] = ()
    loaded_adapters: int = 0
    finishing: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    listing: list[Grant] = field(default_factory=list)
    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    filled_blocks: int = 0

    @property
    def empty(self) -> bool:
        """Whether no token was scheduled."""
        return not (self.decodes or self.prefills)

    @property
    def plain(self) -> bool:
        """Whether there are decodes alone, of which number, sum and maximum tell all.

        Where drafts are made, a step tells how many it verifies, be it none.
        """
        return not (
            self.prefills or self.flights or self.repeated_context or self.contexts is not None
        )

    @property
    def sequences(self) -> int:
        """Sequences in the step."""
        return self.decodes + len(self.prefills)

    @property
    def prefill_tokens(self) -> int:
        """New tokens of the prefills."""
        return sum(grant.new for grant in self.prefills)

    @property
    def prefill_context(self) -> int:
        """Tokens that the prefills find in the cache."""
        return sum(grant.computed for grant in self.prefills)

    @property
    def prefill_pairs(self) -> int:
        """(query, key) pairs of the prefills, without windows."""
        return sum(attended_pairs(grant.new, grant.computed) for grant in self.prefills)

    def shape(self) -> BatchShape:
        """The batch as a step model sees it."""
        return BatchShape(
            tuple((grant.new, grant.computed) for grant in self.prefills),
            self.decodes,
            self.context,
            self.context_max,
            self.contexts,
            drafts=self.drafts,
            shared_context=self.shared_context,
            repeated_context=self.repeated_context,
        )
