"""Decoding sequences that verify drafts: each gains its own number of tokens in a step.

As in vLLM, a step has the latest token of a sequence and its drafts, and blocks for all of them
and for what the drafter writes ahead. With asynchronous scheduling the next step is decided before
the drafts of the one under way are verified: it counts them as computed, and takes that back
afterwards. A sequence that might not be over then is scheduled once more, maybe in vain.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from collections.abc import Sequence as Listed

import numpy as np
import numpy.typing as npt

from servesim.runtime.config import EngineConfig
from servesim.runtime.decodes import DecodeSet, ticket_of
from servesim.runtime.drafts import Drafts
from servesim.runtime.flight import Flight
from servesim.runtime.kv.cache import KVCache, blocks_for
from servesim.runtime.plan import Grant
from servesim.runtime.sequence import Sequence
from servesim.runtime.speculation import Speculation


def new_decodes(config: EngineConfig, drafts: Drafts | None) -> DecodeSet:
    """The set for an engine's decoding sequences: counted ones, unless they speculate."""
    if config.speculation is None or drafts is None:
        return DecodeSet(config.block_size)
    return SpeculativeDecodes(config, config.speculation, drafts)


class SpeculativeDecodes(DecodeSet):
    """Decoding sequences that gain different numbers of tokens: each has its own.

    Their ``known`` tokens are those that are sure to be once the step under way has ended, and
    their ``computed`` ones all of these but the latest. Their ``offset`` is a number of tokens for
    which they surely have blocks.
    """

    def __init__(self, config: EngineConfig, speculation: Speculation, drafts: Drafts) -> None:
        super().__init__(config.block_size)
        self.drafts = self.verified = speculation.num_speculative_tokens
        self._source = drafts
        self._ahead = config.async_scheduling
        self._limit = config.longest
        self._lookahead = speculation.lookahead
        self._members: list[Sequence] = []  # in the order of admission
        self._grants: list[Grant] = []  # of this step, in the same order
        self._computed: list[int] = []  # when it runs, in the same order
        self._made: dict[int, int] = {}  # drafts for the next step, by index
        self._under_way: dict[int, Flight] = {}  # by index

    @property
    def context_max(self) -> int:
        """The most computed tokens of any; 0 without any."""
        return max(self._computed, default=0)

    @property
    def last_ticket(self) -> int:
        """The highest ticket of any; -1 without any."""
        return ticket_of(self._members[-1]) if self._members else -1

    def __contains__(self, seq: Sequence) -> bool:
        return seq.decoding and seq.index in self._made

    def contexts(self) -> npt.NDArray[np.int64]:
        """Computed tokens of each, ascending."""
        return np.sort(np.array(self._computed, dtype=np.int64))

    def computed(self, seq: Sequence) -> int:
        """Computed tokens of a member, drafts under way included."""
        flight = self._under_way.get(seq.index)
        return seq.computed + (flight.drafts if flight else 0)

    def wanted(self, seq: Sequence) -> int:
        """Tokens that the next step should compute of ``seq``; 0 if it is over before."""
        if self._ahead and seq.known >= seq.limit:
            return 0
        return max(0, min(1 + self._made[seq.index], self._limit - self.computed(seq) - 1))

    def wants(self) -> list[Grant]:
        """What the next step should compute of each member; nothing of one that is over before."""
        made, under_way, grants = self._made, self._under_way, []
        for seq in self._members:
            flight = under_way.get(seq.index)
            computed = seq.computed + flight.drafts if flight else seq.computed
            new = min(1 + made[seq.index], self._limit - computed - 1)
            if new < 0 or (self._ahead and seq.known >= seq.limit):
                new = 0
            grants.append(Grant(seq, computed, new))
        return grants

    def take_blocks(self, cache: KVCache, grants: Listed[Grant]) -> None:
        """Let members have the blocks that they need for ``grants``: as many are free."""
        size, lookahead, under_way = self.block_size, self._lookahead, self._under_way
        for seq, computed, new in grants:
            tokens = computed + new + lookahead
            if tokens > seq.offset:
                cache.grow(seq, min(tokens, self._limit))
                seq.offset = blocks_for(min(tokens, self._limit), size) * size
            out = seq.known - (seq.index in under_way)
            if out // size > seq.registered:
                cache.register(seq, out)

    def out(self, seq: Sequence) -> int:
        """Known tokens of a member without that under way; with it if none is."""
        return seq.known - (seq.index in self._under_way)

    def tokens_under_way(self, seq: Sequence) -> int:
        """Tokens of a member in a step that has not ended."""
        flight = self._under_way.get(seq.index)
        return 1 + flight.drafts if flight else 0

    def add(self, seq: Sequence) -> None:
        """Let ``seq`` gain tokens in every step, when the one that ends its prefill is over."""
        self._made[seq.index] = self.drafts
        seq.offset = 0
        self._fly(Flight(seq, 0, 0))
        self.resume(seq)

    def pad(self, seq: Sequence, drafts: int) -> None:
        """Note drafts beside the last token of a prefill: all wrong, they only fill it up."""
        self._under_way[seq.index].drafts = drafts

    def hand(self, seq: Sequence, other: DecodeSet) -> None:
        """Let ``seq``, of which nothing is under way, be a member of ``other``."""
        assert isinstance(other, SpeculativeDecodes)
        self.pause(seq)
        other._made[seq.index] = self._made.pop(seq.index)
        other.resume(seq)

    def resume(self, seq: Sequence) -> None:
        """Count a member again that was left out of a step."""
        seq.decoding = True
        insort(self._members, seq, key=ticket_of)
        self.count += 1
        if self.sharing is not None:
            self.sharing.join(seq)

    def pause(self, seq: Sequence) -> None:
        """Leave a member out of a step."""
        self._members.remove(seq)
        seq.decoding = False
        self.count -= 1
        if self.sharing is not None:
            self.sharing.leave(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget ``seq``; what its step under way gives is known before anybody asks again."""
        if seq.decoding:
            self.pause(seq)
        self._made.pop(seq.index, None)
        flight = self._under_way.pop(seq.index, None)
        if flight is not None:
            flight.void = True
            seq.known += flight.extra

    @property
    def members(self) -> Listed[Sequence]:
        """All, in the order of admission."""
        return self._members

    def serve(self, grants: list[Grant]) -> None:
        """Learn what the members get in this step, in the order of their admission."""
        self._grants = grants
        drafts = sum(grant.new - 1 for grant in grants)
        self.verified = round(drafts / max(1, len(grants)))
        self._computed = [self._context(seq) for seq in self._members]
        self.context = sum(self._computed)

    def advance(self) -> list[Sequence]:
        """Take a step; returns the sequences for which it is the last: members until it ends."""
        self.clock += 1
        self.flights, self.surplus, finishing = [], 0, []
        seqs, computed = self._members, self._computed
        answered = [
            tokens + 1 - seq.spec.prompt_tokens for seq, tokens in zip(seqs, computed, strict=True)
        ]
        right = self._source.right(seqs, answered) if seqs else []
        for grant, done, kept in zip(self._grants, answered, right, strict=True):
            seq, drafts = grant.seq, grant.new - 1
            left = seq.spec.output_tokens - done
            gained = min(1 + kept, 1 + drafts, left)
            if gained == left > 0:
                finishing.append(seq)
            self.surplus += left == 0
            self.extra_tokens += gained - 1
            self._fly(Flight(seq, drafts, max(gained - 1, 0)))
            seq.known += 1
            seq.computed += 1
        return finishing

    def granted(self, running: Iterable[Sequence]) -> list[Grant]:
        """What its members get in this step."""
        return self._grants

    def settle(self, cache: KVCache, flight: Flight) -> None:
        """Learn which drafts of an ended step were right."""
        seq = flight.seq
        if flight.void or seq.finished:
            return
        seq.known += flight.extra
        seq.computed += flight.extra
        if self._under_way.get(seq.index) is flight:
            del self._under_way[seq.index]
        if not self._ahead:
            self._made[seq.index] = self._source.made(seq, seq.known - seq.spec.prompt_tokens)
        elif (known := self.out(seq) - 1) // self.block_size > seq.registered:
            cache.register(seq, known)

    def _fly(self, flight: Flight) -> None:
        self.flights.append(flight)
        self._under_way[flight.seq.index] = flight

    def _context(self, seq: Sequence) -> int:
        """Tokens of a member that are computed when its next step runs."""
        flight = self._under_way.get(seq.index)
        return seq.computed + (flight.extra if flight else 0)
