"""Blocks of an engine that sequences hold without being scheduled: on their way to or from another.

A sequence that was prefilled here holds its blocks until its KV is where it will decode; one that
will decode here reserves its blocks before its KV comes.
"""

from __future__ import annotations

from collections.abc import Callable

from servesim.runtime.request import RequestSpec
from servesim.runtime.scheduler import Scheduler
from servesim.runtime.sequence import Sequence


class Reservations:
    """The sequences that hold blocks of ``scheduler``'s cache and are not scheduled by it.

    Args:
        between_steps: whether no step is under way or decided, none that tells the cache what is
            new in it.

    Attributes:
        held: how many there are.
    """

    def __init__(self, scheduler: Scheduler, between_steps: Callable[[], bool]) -> None:
        self.held = 0
        self._scheduler = scheduler
        self._between_steps = between_steps

    def reserve(self, spec: RequestSpec, row: int, generated: int) -> Sequence | None:
        """Blocks for a request whose KV will come from elsewhere; None if there is no room now.

        There is room when it would run at once: nobody waits, and a place in the batch is free.

        Args:
            generated: tokens of the answer already known.
        """
        scheduler, block_size = self._scheduler, self._scheduler.config.block_size
        running = len(scheduler.running) + len(scheduler.received) + self.held
        if len(scheduler.policy) or running >= scheduler.config.limits.max_num_seqs:
            return None
        if self._between_steps():
            scheduler.cache.start_step()
        seq = Sequence(spec, row, block_size)
        seq.known += generated
        found = scheduler.find(seq)
        if not scheduler.cache.admit(seq, found, seq.known, seq.known):
            return None
        seq.cached_tokens = len(found) * block_size
        seq.computed = seq.known - 1
        self.held += 1
        return seq

    def receive(self, seq: Sequence, token_s: float | None) -> None:
        """Run a sequence with reserved blocks: its KV is here; ``token_s`` is its last token's."""
        seq.last_token_s = token_s
        self.held -= 1
        self._scheduler.received.append(seq)

    def keep(self, seq: Sequence) -> None:
        """Note a sequence that finished and hands over its blocks, unless it has lost them."""
        self.held += seq.ticket is not None

    def release(self, seq: Sequence) -> None:
        """Free the blocks of a sequence that was handed over, or will not come after all."""
        self._scheduler.cache.release(seq)
        self.held -= 1
