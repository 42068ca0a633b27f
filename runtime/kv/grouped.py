"""The KV cache of models whose layers keep different things: a block table for each layer group.

vLLM's rules (``v1/core/kv_cache_coordinator.py``): all groups take blocks from one pool. A group
whose layers see a window gives back the blocks that every later token is beyond. A prefix counts as
cached if each group has what the next token needs of it: all of it, or the window's blocks.
A recurrent state is one block, and nothing of it can be reused (vLLM's default for such models).
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field

from servesim.graph.kv_layout import KvGroup
from servesim.runtime.kv.block_index import GONE, BlockIndex, first_block
from servesim.runtime.kv.cache import blocks_for
from servesim.runtime.kv.pool import FreeList
from servesim.runtime.kv.retention import Retention
from servesim.runtime.sequence import Sequence


@dataclass(slots=True)
class _Table:
    """The blocks of a sequence in one group.

    Attributes:
        blocks: from the start of the sequence on.
        gone: leading blocks that were given back.
        registered: leading blocks that are full and known by their identity.
        group: whose blocks they are.
        ends: tokens before which prefixes of the sequence may end.
    """

    group: KvGroup
    ends: tuple[int, ...]
    blocks: list[int] = field(default_factory=list)
    gone: int = 0
    registered: int = 0


class GroupedCache:
    """Blocks of one pool in tables by layer group.

    A window moves after each chunk of a prompt, and when its sequence needs a new block or, if
    ``every_token``, as soon as a block is beyond it. vLLM counts tokens once they are out: with
    asynchronous scheduling that is when the next block is needed.

    Args:
        groups: of the model; block sizes are multiples of the smallest, which is ``block_size``.
        max_num_batched_tokens: the largest chunk, which a window must hold beside itself.
        caching: let blocks be found by the identity of their prefix.
        retention: vLLM's ``prefix_cache_retention_interval``.

    Attributes:
        moving: numbers of computed tokens, modulo the block size, at which a decode's window leaves
            a block before a new one is needed.
    """

    def __init__(
        self,
        total: int,
        groups: Listed[KvGroup],
        max_num_batched_tokens: int,
        *,
        caching: bool,
        every_token: bool = False,
        retention: int | None = None,
    ) -> None:
        self.total = self.free = total
        self.block_size = min(group.block_size for group in groups)
        self.groups = len(groups)
        self.epoch = 0
        self._kinds = groups
        self._most_new = max_num_batched_tokens
        self._order = range(len(groups))
        self._step = max(group.block_size for group in groups) // self.block_size
        self._retention = Retention(retention, self._step * self.block_size)
        self._caching = caching and all(group.cache.kind != "state" for group in groups)
        self._pool = FreeList(total)
        self._tables: dict[int, list[_Table]] = {}  # by sequence
        self._holders: dict[int, int] = {}  # by block
        self._index = BlockIndex(groups, self.block_size)
        self._parting: dict[int, int] = {}  # tokens that groups without a window have of a sequence
        self._windowed = any(group.cache.window for group in groups)
        self._every_token = every_token
        windows = {g.cache.window for g in groups if g.cache.kind == "window" and g.cache.window}
        self.moving = sorted({(w - 1) % self.block_size for w in windows} if every_token else ())
        self._chunked: dict[int, Sequence] = {}  # got a chunk of their prompt, by index
        self._waiting: dict[int, Sequence] = {}  # of those, whose windows have yet to move

    @property
    def filled(self) -> int:
        """Blocks held, and free ones that keep content."""
        return self.total - self.free + len(self._pool.cached)

    def blocks_of(self, tokens: int) -> int:
        """Most blocks that a sequence of ``tokens`` may hold at once."""
        return sum(group.blocks_for(tokens, self._most_new) for group in self._kinds)

    def start_step(self) -> None:
        """The chunks of prompts that the last step computed are out."""
        self._waiting |= self._chunked
        self._chunked.clear()
        if not self._every_token:
            for seq in self.take_waiting():
                self.move_windows(seq, seq.computed)

    @property
    def moves(self) -> bool:
        """Whether some sequence may give back blocks in this step."""
        return bool(self.moving or self._waiting)

    def take_waiting(self) -> list[Sequence]:
        """Running sequences whose windows chunks of their prompts left behind, no longer noted."""
        waiting, self._waiting = self._waiting, {}
        return [s for s in waiting.values() if s.index in self._tables and s.ticket is not None]

    def find(self, seq: Sequence) -> list[int]:
        """Blocks of the first group for the longest prefix that all groups have."""
        if not self._caching:
            return []
        limit = (seq.known - 1) // self.block_size
        for g in self._order:
            if limit and self._kinds[g].cache.window is None:
                limit = self._index.prefix(seq, g, limit)
        limit -= limit % self._step
        self._parting.pop(seq.index, None)
        if not limit:
            return []
        windows = [g for g in self._order if self._kinds[g].cache.window is not None]
        runs = {g: self._index.runs(seq, g, limit) for g in windows}
        if len(windows) < self.groups:
            self._parting[seq.index] = limit * self.block_size
        for length in range(limit, 0, -self._step):
            if all(self._index.suffices(g, runs[g], length * self.block_size) for g in windows):
                self._parting.setdefault(seq.index, length * self.block_size)
                return [self._index.first(seq, 0, i) for i in range(length)]
        return []

    def recall(self, seq: Sequence, computed: int) -> int:
        """Nothing: there is no memory below."""
        return 0

    def admit(self, seq: Sequence, found: list[int], tokens: int, reserve: int) -> bool:
        """Share what is there of the prefix ``found`` and take new blocks for the rest."""
        prefix = len(found) * self.block_size
        shared = [self._index.needed(seq, g, prefix) for g in range(self.groups)]
        idle = sum(block not in self._holders for part in shared for block in part)
        need = 0
        for group in self._kinds:
            most = group.blocks_for(reserve, self._most_new)  # one too many inside the window
            wanted = min(most, blocks_for(reserve, group.block_size))
            wanted = max(wanted, blocks_for(tokens, group.block_size))
            need += max(0, wanted - prefix // group.block_size)
        if need + idle > self.free:
            return False
        tables, ends = [], self._ends(seq)
        for group, part in zip(self._kinds, shared, strict=True):
            full = prefix // group.block_size
            gone = full - len(part)
            tables.append(_Table(group, ends, [GONE] * gone + part, gone, full))
            for block in part:
                self._hold(block)
        self._tables[seq.index] = tables
        self._take_for(tables, tokens)
        self._note_chunk(seq)
        return True

    def grow(self, seq: Sequence, tokens: int) -> bool:
        """Take the blocks that are missing for ``tokens``, if free, once the window has moved."""
        tables = self._tables.get(seq.index)
        if tables is None:
            ends = self._ends(seq)
            tables = [_Table(group, ends) for group in self._kinds]
            self._tables[seq.index] = tables
        if not seq.decoding:
            self._note_chunk(seq)
        computed = tokens - 1 if seq.decoding else seq.computed
        if not self._missing(tables, tokens):
            if self._every_token:
                self.move_windows(seq, computed)
            return True
        self.register(seq, computed)
        self.move_windows(seq, computed)
        if self._missing(tables, tokens) > self.free:
            return False
        self._take_for(tables, tokens)
        return True

    def extend(self, seqs: Collection[Sequence]) -> None:
        """Room for one token more, which starts a block, for each."""
        for seq in seqs:
            self.grow(seq, self._room(seq) + 1)

    def register(self, seq: Sequence, tokens: int) -> None:
        """Make the full blocks among the first ``tokens`` known by their identities."""
        if not self._caching:
            return
        for g, (group, table) in enumerate(zip(self._kinds, self._tables[seq.index], strict=True)):
            full = tokens // group.block_size
            ratio = group.block_size // self.block_size
            shared = min(full, len(seq.shared) // ratio)
            if table.registered < shared:
                self.epoch += 1
            for i in range(max(table.registered, table.gone), shared):
                if self._keeps(table, i):
                    self._index.enter(seq, g, i, table.blocks[i])
            table.registered = max(table.registered, full)

    def fill(self, seqs: Collection[Sequence]) -> None:
        """Make all blocks of each known."""
        for seq in seqs:
            self.register(seq, self._room(seq))

    def release(self, seq: Sequence, *, returns: bool = False) -> None:
        """Take back all blocks of ``seq``, the last of each group first."""
        for g, table in enumerate(self._tables.pop(seq.index, [])):
            if returns and self._caching:
                for i in range(table.gone, table.registered):
                    if self._keeps(table, i):
                        self._index.enter(seq, g, i, table.blocks[i])
            self._let_go(table, len(table.blocks))
        self.epoch += 1

    def _room(self, seq: Sequence) -> int:
        """Tokens that the blocks of the smallest size hold."""
        return max(
            len(table.blocks) * group.block_size
            for group, table in zip(self._kinds, self._tables[seq.index], strict=True)
            if group.block_size == self.block_size
        )

    def _note_chunk(self, seq: Sequence) -> None:
        if self._windowed:
            self._chunked[seq.index] = seq

    def _missing(self, tables: list[_Table], tokens: int) -> int:
        return sum(
            max(0, blocks_for(tokens, group.block_size) - len(table.blocks))
            for group, table in zip(self._kinds, tables, strict=True)
        )

    def _take_for(self, tables: list[_Table], tokens: int) -> None:
        for group, table in zip(self._kinds, tables, strict=True):
            table.blocks += self._take(blocks_for(tokens, group.block_size) - len(table.blocks))

    def _take(self, count: int) -> list[int]:
        if count <= 0:
            return []
        blocks, evicted = self._pool.take(count)
        self.free -= count
        for block, _ in evicted:
            self._index.forget(block)
        self._holders.update(dict.fromkeys(blocks, 1))
        return blocks

    def move_windows(self, seq: Sequence, computed: int) -> None:
        """Give back the blocks that no token after ``computed`` ones sees."""
        self._waiting.pop(seq.index, None)
        for g, table in enumerate(self._tables[seq.index]):
            gone = min(first_block(self._kinds[g], computed), len(table.blocks))
            if gone > table.gone:
                self._let_go(table, gone)
                self.epoch += 1

    def _let_go(self, table: _Table, end: int) -> None:
        """Give back the blocks before number ``end``, the last first."""
        for i in range(end - 1, table.gone - 1, -1):
            block = table.blocks[i]
            table.blocks[i] = GONE
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            del self._holders[block]
            self.free += 1
            if block in self._index or (i < table.registered and self._keeps(table, i)):
                self._pool.cached[block] = 0  # what it holds is in the index, if anyone can find it
            else:
                self._pool.put_blank([block])
        table.gone = end

    def _keeps(self, table: _Table, i: int) -> bool:
        return self._retention.keeps(table.group, table.ends, i)

    def _ends(self, seq: Sequence) -> tuple[int, ...]:
        """Where a prefix of ``seq``, now admitted, may end: before its prompt's last token, and
        where it parts from what others have of it, if windows had less."""
        return (seq.spec.prompt_tokens - 1, self._parting.pop(seq.index, 0))

    def _hold(self, block: int) -> None:
        if block in self._holders:
            self._holders[block] += 1
        else:
            del self._pool.cached[block]
            self._holders[block] = 1
            self.free -= 1
