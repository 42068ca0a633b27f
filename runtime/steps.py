"""One row a step, thinned out when there are very many."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from servesim.runtime.gaps import WeightedSample
from servesim.runtime.plan import Plan

#: Columns that are added up when rows are joined, and those that are averaged over time.
SUMS = ("steps", "prefill_tokens", "prefills", "decodes")
#: Further sums: what the steps' attention reads, and what speculation gains; not in the step table.
ATTENDED = (
    "decode_context",
    "shared_context",
    "repeated_context",
    "prefill_context",
    "prefill_pairs",
    "extra_tokens",
)
MEANS = ("running", "waiting", "kv_blocks", "filled_blocks")

#: Rows kept by default before neighbours are joined.
DEFAULT_LIMIT = 1 << 16


class StepRecords:
    """What each step of an engine did, in at most ``limit`` rows.

    When the rows are full, neighbours are joined in pairs, so that a row stands for several steps
    (column ``steps``); the gaps between tokens are kept apart and lose nothing by it.

    Attributes:
        start_s, end_s: of the row's first and last step.
        prefill_tokens, prefills, decodes: new tokens of prefills, how many there were, and tokens
            of decodes.
        decode_context, prefill_context: tokens already in the cache of the decodes, and of the
            prefills, before each step.
        shared_context, repeated_context: of the decodes' tokens in the cache, those that several
            have, and those read again (``BatchShape``).
        prefill_pairs: (query, key) pairs of the prefills.
        extra_tokens: that decodes gained beyond one each, by speculation, less the decodes of
            sequences that were over. The tokens of a step whose client gives up meanwhile count.
        running, waiting, kv_blocks: sequences and blocks held after scheduling; averaged over time
            where steps are joined.
        filled_blocks: those held, and free ones whose content can still be found.
        kv_blocks_peak: the most blocks ever held.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self.start_s = array("d")
        self.end_s = array("d")
        self.steps = array("q")
        self.prefill_tokens = array("q")
        self.prefills = array("q")
        self.decodes = array("q")
        self.decode_context = array("q")
        self.shared_context = array("q")
        self.repeated_context = array("q")
        self.prefill_context = array("q")
        self.prefill_pairs = array("q")
        self.extra_tokens = array("q")
        self.running = array("d")
        self.waiting = array("d")
        self.kv_blocks = array("d")
        self.filled_blocks = array("d")
        self.kv_blocks_peak = 0
        self._steady = array("q")  # sequences that got a token in the step before, too
        self._gaps = WeightedSample()
        self._gaps_until = 0  # rows before this are in the sample
        self._pauses = array("d")  # gaps that are no row's length, and how often each occurred
        self._paused = array("q")
        self._busy = np.empty(
            0
        )  # seconds of the steps in joined rows, pauses between them left out

    def __len__(self) -> int:
        return len(self.end_s)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """A copy of column ``name`` as an array of floats."""
        return np.array(getattr(self, name), dtype=np.float64)

    def add(self, start_s: float, end_s: float, plan: Plan, kv_blocks: int) -> None:
        """The step that ``plan`` decided, while ``kv_blocks`` were held."""
        if len(self.end_s) >= self.limit:
            self._thin_out()
        self.start_s.append(start_s)
        self.end_s.append(end_s)
        self.steps.append(1)
        self.prefill_tokens.append(plan.prefill_tokens)
        self.prefills.append(len(plan.prefills))
        self.decodes.append(plan.decodes)
        self.decode_context.append(plan.context)
        self.shared_context.append(plan.shared_context)
        self.repeated_context.append(plan.repeated_context)
        self.prefill_context.append(plan.prefill_context)
        self.prefill_pairs.append(plan.prefill_pairs)
        self.extra_tokens.append(plan.extra_tokens)
        self.running.append(plan.running)
        self.waiting.append(plan.waiting)
        self.kv_blocks.append(kv_blocks)
        self.filled_blocks.append(plan.filled_blocks)
        self.kv_blocks_peak = max(self.kv_blocks_peak, kv_blocks)
        self._steady.append(plan.decodes - plan.decodes_resumed - plan.surplus)
        if plan.flights:
            self.add_gaps(0.0, plan.extra_tokens + plan.surplus)  # they come out together

    def cut(self, now: float) -> None:
        """End at ``now`` what has not ended: its device failed."""
        row = len(self) - 1
        while row >= 0 and self.end_s[row] > now:
            self.start_s[row], self.end_s[row] = min(self.start_s[row], now), now
            self._steady[row] = 0  # its tokens came to nobody
            row -= 1

    def busy_s(self) -> npt.NDArray[np.float64]:
        """Seconds of the steps of each row."""
        joined = len(self._busy)
        return np.concatenate(
            [self._busy, (self.column("end_s") - self.column("start_s"))[joined:]]
        )

    def add_pause(self, gap_s: float) -> None:
        """A token that came ``gap_s`` after the one before, with steps in between."""
        self.add_gaps(gap_s, 1)

    def add_gaps(self, gap_s: float, count: int) -> None:
        """``count`` tokens that each came ``gap_s`` after the one before of their request."""
        if count:
            self._pauses.append(gap_s)
            self._paused.append(count)
        if len(self._pauses) >= self.limit:
            self._collect_gaps()

    def gaps(self) -> WeightedSample:
        """Times between the tokens of a request, over all requests."""
        self._collect_gaps()
        return self._gaps

    def _collect_gaps(self) -> None:
        new = slice(self._gaps_until, None)
        self._gaps.add(self.busy_s()[new], np.array(self._steady)[new])
        self._gaps.add(np.array(self._pauses), np.array(self._paused))
        self._gaps_until = len(self)
        self._pauses, self._paused = array("d"), array("q")

    def _thin_out(self) -> None:
        """Join the rows in pairs; an odd one at the end stays alone."""
        self._collect_gaps()
        first = np.arange(0, len(self), 2)
        last = np.minimum(first + 1, len(self) - 1)
        busy = self.busy_s()
        self._busy = np.add.reduceat(busy, first)
        for name in MEANS:
            weighted = np.add.reduceat(self.column(name) * busy, first)
            setattr(self, name, array("d", weighted / np.where(self._busy > 0, self._busy, 1)))
        for name in (*SUMS, *ATTENDED):
            summed = np.add.reduceat(np.array(getattr(self, name)), first)
            setattr(self, name, array("q", summed.tolist()))
        self.start_s = array("d", self.column("start_s")[first])
        self.end_s = array("d", self.column("end_s")[last])
        self._steady = array("q", bytes(8 * len(first)))
        self._gaps_until = len(first)
