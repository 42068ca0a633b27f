"""The KV cache of models whose layers keep different things: a block table for each layer group.

vLLM's rules (0.32, ``v1/core/kv_cache_coordinator.py``): all groups take blocks from one pool. A
group whose layers see a window, or keep a state, gives back the blocks that no later token needs. A
prefix counts as cached if each group has what the next token needs of it: all of it, the window's
blocks, or the state at its end.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from collections.abc import Sequence as Listed

from servesim.graph.kv_layout import KvGroup
from servesim.runtime.kv.alignment import alignment
from servesim.runtime.kv.block_index import GONE
from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.kv.held import HeldBlocks
from servesim.runtime.kv.retention import Retention
from servesim.runtime.kv.sight import first_block, keeps_all, leaving
from servesim.runtime.kv.table import Table
from servesim.runtime.sequence import Sequence


class GroupedCache:
    """Blocks of one pool in tables by layer group.

    Args:
        groups: of the model; block sizes are multiples of the smallest, which is ``block_size``.
        most_in_flight: tokens that steps compute before the first of them is out, which a window
            must hold beside itself.
        caching: let blocks be found by the identity of their prefix.
        retention: vLLM's ``prefix_cache_retention_interval``.
        most_new: tokens that a prefill may get in a step at most.
        lag: tokens of a decode that are under way when its next one is scheduled.

    Attributes:
        moving: numbers of computed tokens of a decode, modulo the block size, at which a block may
            be one that it does not need any more.
    """

    def __init__(
        self,
        total: int,
        groups: Listed[KvGroup],
        most_in_flight: int,
        *,
        caching: bool,
        retention: int | None = None,
        most_new: int = 0,
        lag: int = 0,
    ) -> None:
        self.total = total
        self.block_size = min(group.block_size for group in groups)
        self.groups = len(groups)
        self.epoch = 0
        self._kinds = groups
        self._most_in_flight = most_in_flight
        self._align = math.lcm(*(group.block_size for group in groups))
        self._step = self._align // self.block_size
        self._retention = Retention(retention, self._align)
        self._caching = caching
        self._alignment = alignment(groups, most_new, retention) if caching else None
        self._states_in_flight = (1 + lag) * (1 + any(group.checkpoints for group in groups))
        self._tables: dict[int, list[Table]] = {}  # by sequence
        self._held = HeldBlocks(total, groups, self.block_size)
        self._index = self._held.index
        self._parting: dict[int, int] = {}  # tokens that not all groups have of a sequence
        self._whole = [g for g, group in enumerate(groups) if keeps_all(group)]
        self._parts = [g for g, group in enumerate(groups) if not keeps_all(group)]
        self._fresh: set[int] = set()  # keys of states that are being computed
        self.moving: Listed[int] = leaving(groups, self.block_size, lag)

    @property
    def free(self) -> int:
        """Blocks that can be taken now."""
        return self._held.free

    @property
    def filled(self) -> int:
        """Blocks held, and free ones that keep content."""
        return self.total - self.free + self._held.findable

    def blocks_of(self, tokens: int) -> int:
        """Most blocks that a sequence of ``tokens`` may hold at once."""
        blocks = 0
        for group in self._kinds:
            most = group.blocks_for(tokens, self._most_in_flight)
            if self._alignment is not None and group.cache.kind == "state":
                most = min(blocks_for(tokens, group.block_size), 1 + self._states_in_flight)
            blocks += most
        return blocks

    def start_step(self) -> None:
        """States of the last step are there now."""
        if self._fresh:
            self._fresh.clear()
            self.epoch += 1

    def cut(self, seq: Sequence, computed: int, new: int) -> int:
        """Of ``new`` tokens, those that leave a state that can be found again."""
        if self._alignment is None:
            return new
        return self._alignment.new(seq, computed, new, self._parting.get(seq.index, 0))

    def find(self, seq: Sequence) -> list[int]:
        """Blocks of the first group for the longest prefix that all groups have."""
        if not self._caching:
            return []
        limit = (seq.known - 1) // self.block_size
        for g in self._whole:
            if limit:
                limit = self._index.prefix(seq, g, limit)
        limit -= limit % self._step
        self._parting.pop(seq.index, None)
        runs = {g: self._index.runs(seq, g, limit) for g in self._parts} if limit else {}
        for length in range(limit, 0, -self._step):
            if all(self._index.suffices(g, runs[g], length * self.block_size) for g in self._parts):
                break
        else:
            length = 0
        if length < limit and self._whole:
            self._parting[seq.index] = limit * self.block_size
        return [self._index.first(seq, 0, i) for i in range(length)]

    def recall(self, seq: Sequence, computed: int) -> int:
        """Nothing: there is no memory below."""
        return 0

    def admit(self, seq: Sequence, found: list[int], tokens: int, reserve: int) -> bool:
        """Share what is there of the prefix ``found`` and take new blocks for the rest."""
        prefix = len(found) * self.block_size
        shared = [self._index.needed(seq, g, prefix) for g in range(self.groups)]
        if prefix and any(self._index.last_key(seq, g, prefix) in self._fresh for g in self._parts):
            return False
        idle = sum(block not in self._held for part in shared for block in part)
        extra = self._checkpoint(seq, prefix, reserve)
        whole = sum(self._needed(group, prefix, reserve, extra) for group in self._kinds)
        extra = self._checkpoint(seq, prefix, tokens)
        tables = []
        for group, part in zip(self._kinds, shared, strict=True):
            full = prefix // group.block_size
            gone = full - len(part)
            tables.append(Table(group, [GONE] * gone + part, gone, full))
        if max(whole, self._missing(tables, tokens, extra)) + idle > self.free:
            return False
        for part in shared:
            for block in part:
                self._held.share(block)
        self._tables[seq.index] = tables
        self._take_for(tables, tokens, extra)
        return True

    def settle(self, seq: Sequence, tokens: int) -> None:
        """Give back the blocks that no token after the first ``tokens``, which are out, needs."""
        if not self._parts:
            return
        self._register(seq, tokens - tokens % self._align)
        for table in self._tables[seq.index]:
            gone = min(first_block(table.group, tokens), len(table.blocks))
            if gone > table.gone:
                self._held.let_go(table, gone)
                self.epoch += 1

    def grow(self, seq: Sequence, tokens: int) -> bool:
        """Take the blocks that are missing for ``tokens``, if free."""
        tables = self._tables.get(seq.index)
        if tables is None:
            tables = self._tables[seq.index] = [Table(group) for group in self._kinds]
        extra = 0 if seq.decoding else self._checkpoint(seq, seq.computed, tokens)
        missing = self._missing(tables, tokens, extra)
        if missing > self.free:
            return False
        if missing:
            self._take_for(tables, tokens, extra)
        return True

    def extend(self, seqs: Collection[Sequence]) -> None:
        """Room for one token more, which starts a block, for each."""
        for seq in seqs:
            self.grow(seq, self._room(seq) + 1)

    def register(self, seq: Sequence, tokens: int) -> None:
        """Make the full blocks among the first ``tokens`` known by their identities."""
        tokens -= tokens % self._align
        self._register(seq, tokens)
        if self._alignment is not None and tokens == self._alignment.last_end(
            seq.spec.prompt_tokens
        ):
            self._touch(seq, tokens)

    def _register(self, seq: Sequence, tokens: int) -> None:
        if not self._caching:
            return
        for g, table in enumerate(self._tables[seq.index]):
            full = tokens // table.group.block_size
            if table.registered >= full:
                continue
            ratio = table.group.block_size // self.block_size
            # What all later tokens need and nobody shares is entered when its sequence loses it.
            shared = min(full, len(seq.shared) // ratio) if g in self._whole else full
            if table.registered < len(seq.shared) // ratio:
                self.epoch += 1
            self._enter(seq, g, table, max(table.registered, table.gone), shared)
            table.registered = full

    def fill(self, seqs: Collection[Sequence]) -> None:
        """Make all blocks of each known."""
        for seq in seqs:
            self.register(seq, self._room(seq))

    def shareable(self, seq: Sequence) -> list[int]:
        """Those of the first group that keeps all, if its blocks are of the smallest size."""
        for g in self._whole if self._caching else ():
            if self._kinds[g].block_size == self.block_size:
                return self._tables[seq.index][g].blocks[: len(seq.shared)]
        return []

    def release(self, seq: Sequence, *, returns: bool = False) -> None:
        """Take back all blocks of ``seq``, the last of each group first."""
        tables = self._tables.pop(seq.index, [])
        for g, table in enumerate(tables):
            if returns and self._caching and g in self._whole:
                self._enter(seq, g, table, table.gone, table.registered)
            self._held.let_go(table, len(table.blocks))
        self._parting.pop(seq.index, None)
        self.epoch += 1

    def _room(self, seq: Sequence) -> int:
        """Tokens that the blocks of the smallest size hold."""
        return max(
            len(table.blocks) * group.block_size
            for group, table in zip(self._kinds, self._tables[seq.index], strict=True)
            if group.block_size == self.block_size
        )

    def _enter(self, seq: Sequence, g: int, table: Table, first: int, end: int) -> None:
        """Let others find the blocks from ``first`` to before ``end`` that are worth keeping."""
        ends = (seq.spec.prompt_tokens - 1, self._parting.get(seq.index, 0))
        for i in range(first, end):
            block = table.blocks[i]
            if block != GONE and self._retention.keeps(table.group, ends, i):
                key = self._index.enter(seq, g, i, block)
                if table.group.cache.kind == "state":
                    self._fresh.add(key)

    def _touch(self, seq: Sequence, tokens: int) -> None:
        """As vLLM has it, the state before a prompt's last block is new as long as it is held."""
        for g, table in enumerate(self._tables[seq.index]):
            place = tokens // table.group.block_size - 1
            if table.group.cache.kind == "state" and place >= 0 and table.blocks[place] != GONE:
                self._fresh.add(self._index.last_key(seq, g, tokens))

    def _needed(self, group: KvGroup, prefix: int, reserve: int, checkpoint: int) -> int:
        """Blocks beside those of ``prefix`` that a sequence of ``reserve`` tokens takes at most."""
        most = blocks_for(reserve, group.block_size)
        if group.cache.kind == "state":
            return max(0, min(most - prefix // group.block_size, 1 + checkpoint))
        if group.cache.window is not None:
            most = min(most, group.most_blocks(self._most_in_flight))
        return max(0, most - prefix // group.block_size)

    def _checkpoint(self, seq: Sequence, start: int, end: int) -> int:
        return 0 if self._alignment is None else self._alignment.checkpoint(seq, start, end)

    def _missing(self, tables: list[Table], tokens: int, checkpoint: int) -> int:
        return sum(table.missing(tokens, checkpoint) for table in tables)

    def _take_for(self, tables: list[Table], tokens: int, checkpoint: int) -> None:
        for table in tables:
            table.extend(tokens, checkpoint, self._held.take)
