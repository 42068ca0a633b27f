"""Decoding sequences that verify drafts: each gains its own number of tokens in a step."""

from __future__ import annotations

from bisect import insort

import numpy as np
import numpy.typing as npt

from servesim.runtime.config import EngineConfig
from servesim.runtime.decodes import DecodeSet, ticket_of
from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.sequence import Sequence
from servesim.runtime.speculation import Speculation
from servesim.runtime.streams import stream


def new_decodes(config: EngineConfig) -> DecodeSet:
    """The set for an engine's decoding sequences: counted ones, unless they speculate."""
    speculation = config.speculation
    if speculation is None:
        return DecodeSet(config.block_size)
    return SpeculativeDecodes(config.block_size, speculation)


class SpeculativeDecodes(DecodeSet):
    """Decoding sequences that gain different numbers of tokens: visited, not counted.

    What a sequence gains is drawn when its step is scheduled; no decision looks at it before.
    """

    def __init__(self, block_size: int, speculation: Speculation) -> None:
        super().__init__(block_size)
        self._speculation = speculation
        self._members: list[Sequence] = []  # in the order of admission
        self._filled: list[Sequence] = []  # with a block more full since the last step
        self._rng = stream(speculation.seed, "speculation")
        self.drafts = speculation.num_speculative_tokens

    @property
    def tokens(self) -> int:
        """Tokens that a step of all of them computes."""
        return self.count * (1 + self.drafts)

    @property
    def context_max(self) -> int:
        """The most computed tokens of any; 0 without any."""
        return max((seq.computed for seq in self._members), default=0)

    @property
    def last_ticket(self) -> int:
        """The highest ticket of any; -1 without any."""
        return ticket_of(self._members[-1]) if self._members else -1

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._members

    def contexts(self) -> npt.NDArray[np.int64]:
        """Computed tokens of each, ascending."""
        return np.sort(np.array([seq.computed for seq in self._members], dtype=np.int64))

    def computed(self, seq: Sequence) -> int:
        """Computed tokens of a member."""
        return seq.computed

    def reach(self, seq: Sequence) -> int:
        """Tokens that its blocks must hold after the next step: no more than it ever needs."""
        total = seq.spec.prompt_tokens + seq.spec.output_tokens
        return min(seq.computed + 1 + self.drafts, total - 1)

    def verified(self, seq: Sequence, new: int) -> int:
        """Of tokens it computes, those known to be right before: none, the latest is under way."""
        return 0

    def add(self, seq: Sequence) -> None:
        """Let ``seq`` gain tokens in every step."""
        seq.decoding = True
        insort(self._members, seq, key=ticket_of)
        self.count += 1
        self.context += seq.computed
        if self.sharing is not None:
            self.sharing.join(seq)

    def remove(self, seq: Sequence) -> None:
        """Stop drawing for ``seq``."""
        self._members.remove(seq)
        self._leave(seq)

    def needing_block(self) -> list[Sequence]:
        """Those whose next tokens, drafts included, need a block more."""
        size = self.block_size
        return [seq for seq in self._members if blocks_for(self.reach(seq), size) > _held(seq)]

    def filling_block(self) -> list[Sequence]:
        """Those that filled a block in the last step."""
        return [seq for seq in self._filled if seq.decoding]

    def advance(self) -> list[Sequence]:
        """Take a step; returns the sequences, now removed, for which it was the last."""
        self.clock += 1
        self._filled, leaving = [], []
        for seq, kept in zip(self._members, self._draw(), strict=True):
            gained = min(1 + kept, self.reach(seq) - seq.computed)
            if seq.computed // self.block_size < (seq.computed + gained) // self.block_size:
                self._filled.append(seq)
            seq.computed += gained
            seq.known += gained
            self.context += gained
            self.extra_tokens += gained - 1
            if seq.known == seq.spec.prompt_tokens + seq.spec.output_tokens:
                leaving.append(seq)
        for seq in leaving:
            self.remove(seq)
        return leaving

    def _draw(self) -> list[int]:
        """Drafts kept of each member."""
        rates = np.array(self._speculation.rates)
        right = self._rng.random((self.count, len(rates))) < rates
        kept = np.cumprod(right, axis=1).sum(axis=1)
        if self._speculation.proposal_rate < 1:
            kept = kept * (self._rng.random(self.count) < self._speculation.proposal_rate)
        return [int(n) for n in kept]

    def _leave(self, seq: Sequence) -> None:
        seq.decoding = False
        self.count -= 1
        self.context -= seq.computed
        if self.sharing is not None:
            self.sharing.leave(seq)


def _held(seq: Sequence) -> int:
    """KV blocks of ``seq``: listed where their identity matters, else counted."""
    return len(seq.blocks) or seq.held
