"""Sequences that gain one token every step: counted, not visited.

All that changes from step to step is a clock. A sequence that joins with c computed tokens when
the clock shows k has c + (clock - k) computed tokens later on, needs a block whenever that is a
multiple of the block size, and finishes at a clock known in advance. A step therefore touches only
the sequences that need a block, fill one, or finish.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from servesim.runtime.flight import Flight
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.sharing import SharedBlocks
from servesim.runtime.plan import Grant
from servesim.runtime.sequence import Sequence


def ticket_of(seq: Sequence) -> int:
    """The rank of a running sequence in the order of admission."""
    assert seq.ticket is not None
    return seq.ticket


class DecodeSet:
    """The decoding sequences of one engine.

    Attributes:
        count: how many there are.
        clock: steps taken.
        context: sum of their computed tokens.
        drafts: tokens beside its latest that each verifies in a step, if there are as many, and
            ``verified``, the mean of this step, rounded.
        extra_tokens: tokens beyond one a sequence and step, so far.
        flights: drafts in the last step; to be settled when it ends.
        surplus: sequences in the last step that were over when it began.
        sharing: counts the blocks that they share; None if nobody asks.
    """

    drafts = 0
    verified = 0
    sharing: SharedBlocks | None = None

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.clock = 0
        self.count = 0
        self.context = 0
        self.extra_tokens = 0
        self.surplus = 0
        self.flights: list[Flight] = []
        self._offsets: list[int] = []  # computed tokens minus clock, ascending
        self._phases: list[list[Sequence]] = [[] for _ in range(block_size)]  # by offset
        self._last: dict[int, list[Sequence]] = {}  # by the clock after the last token
        self._over: dict[int, Sequence] = {}  # got their last token, which nobody knows yet
        self._contexts: npt.NDArray[np.int64] | None = None  # offsets as an array

    @property
    def context_max(self) -> int:
        """The most computed tokens of any; 0 without any."""
        return self._offsets[-1] + self.clock if self._offsets else 0

    @property
    def shared(self) -> tuple[int, int]:
        """Tokens that several of them hold, and how often again; 0 if nobody asks."""
        sharing = self.sharing
        return (sharing.shared_tokens, sharing.repeated_tokens) if sharing else (0, 0)

    @property
    def last_ticket(self) -> int:
        """The highest ticket of any; -1 without any."""
        return max((ticket_of(phase[-1]) for phase in self._phases if phase), default=-1)

    def __contains__(self, seq: Sequence) -> bool:
        return seq.decoding and seq in self._phases[seq.offset % self.block_size]

    def contexts(self) -> npt.NDArray[np.int64]:
        """Computed tokens of each, ascending."""
        if self._contexts is None:
            self._contexts = np.asarray(self._offsets, dtype=np.int64)
        return self._contexts + self.clock

    def computed(self, seq: Sequence) -> int:
        """Computed tokens of a member."""
        return seq.offset + self.clock

    def wanted(self, seq: Sequence) -> int:
        """Tokens that the next step should compute of a member."""
        return 1

    def tokens_under_way(self, seq: Sequence) -> int:
        """Tokens of a member in a step that has not ended, if steps are scheduled ahead."""
        return 1

    def granted(self, running: Iterable[Sequence]) -> list[Grant]:
        """What its members, among those ``running``, get in this step."""
        return [Grant(seq, self.computed(seq), 1) for seq in running if seq.decoding]

    def settle(self, cache: KVCache, flight: Flight) -> None:
        """Learn which drafts of an ended step were right: there are none."""

    def pad(self, seq: Sequence, drafts: int) -> None:
        """Note drafts beside the last token of a prefill: there are none."""

    def add(self, seq: Sequence) -> None:
        """Let ``seq``, whose only token not computed is its latest, gain a token every step."""
        seq.decoding = True
        seq.offset = seq.computed - self.clock
        insort(self._phases[seq.offset % self.block_size], seq, key=ticket_of)
        last = self._last_clock(seq)
        if last > self.clock:
            self._last.setdefault(last, []).append(seq)
        else:
            self._over[seq.index] = seq
        insort(self._offsets, seq.offset)
        self._contexts = None
        self.count += 1
        self.context += seq.computed
        if self.sharing is not None:
            self.sharing.join(seq)

    def remove(self, seq: Sequence) -> None:
        """Stop counting ``seq`` and bring its own numbers up to date."""
        if self._over.pop(seq.index, None) is None:
            clock = self._last_clock(seq)
            self._last[clock].remove(seq)
            if not self._last[clock]:
                del self._last[clock]
        self._drop(seq)

    def pause(self, seq: Sequence) -> None:
        """Leave a member out of a step."""
        self.remove(seq)

    def resume(self, seq: Sequence) -> None:
        """Count a member again that was left out of a step."""
        self.add(seq)

    def hand(self, seq: Sequence, other: DecodeSet) -> None:
        """Let a member be one of ``other``."""
        self.remove(seq)
        other.add(seq)

    def needing_block(self) -> list[Sequence]:
        """Those whose next token starts a new block, in the order of admission."""
        return self._phases[-self.clock % self.block_size]

    def filling_block(self) -> list[Sequence]:
        """Those whose next token fills a block, in the order of admission."""
        return self._phases[(-self.clock - 1) % self.block_size]

    def in_phases(self, phases: Iterable[int]) -> list[Sequence]:
        """Those whose computed tokens are one of ``phases`` modulo the block size, by admission."""
        found = [seq for r in phases for seq in self._phases[(r - self.clock) % self.block_size]]
        return sorted(found, key=ticket_of)

    def advance(self) -> list[Sequence]:
        """Take a step; returns the sequences for which it was the last.

        They are removed, but for those that another step is scheduled for before this one ends.
        """
        self.clock += 1
        self.context += self.count
        self.surplus = len(self._over)
        self.extra_tokens -= self.surplus
        leaving = self._last.pop(self.clock, None)
        if leaving is None:
            return []
        for seq in leaving:
            if seq.overruns:
                self._over[seq.index] = seq
            else:
                self._drop(seq)
        return leaving

    def _last_clock(self, seq: Sequence) -> int:
        return seq.total - 1 - seq.offset

    def _drop(self, seq: Sequence) -> None:
        self._phases[seq.offset % self.block_size].remove(seq)
        del self._offsets[bisect_left(self._offsets, seq.offset)]
        self._contexts = None
        seq.computed = self.computed(seq)
        seq.known = seq.computed + 1
        seq.decoding = False
        self.count -= 1
        self.context -= seq.computed
        if self.sharing is not None:
            self.sharing.leave(seq)
