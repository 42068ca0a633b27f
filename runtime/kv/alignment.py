"""Where prefills of models with recurrent states may end, so that states can be reused.

vLLM's ``mamba_cache_mode = "align"`` (0.32, ``Scheduler._mamba_block_aligned_split``): a state can
be found again only at a block's end, and it is there only if a step ended there.
"""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass

from servesim.graph.kv_layout import KvGroup
from servesim.runtime.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Alignment:
    """The ends of steps that leave a state behind.

    Attributes:
        block_size: tokens of a block, in all groups.
        most_new: tokens that a prefill may get in a step at most.
        checkpoints: whether kernels keep the state at the last block's end inside a prefill.
        every_step: whether they do so in any step, not only in the last of a prefill.
    """

    block_size: int
    most_new: int
    checkpoints: bool
    every_step: bool

    def new(self, seq: Sequence, start: int, new: int, parting: int) -> int:
        """Of ``new`` tokens after ``start``, how many a step computes; 0 if it has to wait.

        Args:
            parting: tokens that ``seq`` shares with others who have no state there; 0 for none.
        """
        size, prefill = self.block_size, prefill_end(seq)
        if start >= prefill:
            return new
        end = start + new
        last = self.last_end(seq.known)
        inside = end >= prefill and self._checkpoint(start, end, self.last_end(prefill))
        if end < prefill:
            aligned = end // size * size
            if aligned > start or size <= self.most_new:
                end = aligned
        stops = [0 if inside else last]
        if start % size and not inside:
            stops.append((start // size + 1) * size)
        if start < parting < end:
            stops.append(start + (parting - start) // size * size)
        return max(0, min((stop for stop in stops if start < stop < end), default=end) - start)

    def checkpoint(self, seq: Sequence, start: int, end: int) -> int:
        """1 if a step from ``start`` to ``end`` keeps a state before its last one, else 0."""
        if not self.every_step and end < prefill_end(seq):
            return 0
        return int(self._checkpoint(start, end, self.last_end(end)))

    def last_end(self, tokens: int) -> int:
        """The last end of a block that leaves one of ``tokens`` to compute."""
        return (tokens - 1) // self.block_size * self.block_size

    def _checkpoint(self, start: int, end: int, place: int) -> bool:
        size = self.block_size
        return (
            self.checkpoints
            and start % size == 0
            and start + size <= place < end
            and -(-end // size) - 2 > (start - 1) // size
        )


def prefill_end(seq: Sequence) -> int:
    """Tokens that are computed as a prompt is, those of an answer cut short included."""
    return max(seq.spec.prompt_tokens, seq.known - 1)


def alignment(groups: Listed[KvGroup], most_new: int, retention: int | None) -> Alignment | None:
    """How steps end for ``groups``; None if they have no recurrent states to find again."""
    states = [group for group in groups if group.cache.kind == "state"]
    if not states:
        return None
    checkpoints = all(group.checkpoints for group in states)
    return Alignment(states[0].block_size, most_new, checkpoints, retention != 0)
