"""How long a step takes on several devices: a list schedule of its operators and transfers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import fsum

from servesim.graph.batch import BatchShape
from servesim.hardware.cost import Source
from servesim.hardware.schedule import Stretch, Task, makespan
from servesim.runtime.cutting import cut
from servesim.runtime.host_reads import HostReads
from servesim.runtime.parallel.shares import share_of_prefills
from servesim.runtime.pieces import Lane, Piece
from servesim.runtime.step_model import SOURCES, CompiledStepModel, OpCost

#: What a breakdown calls the time in which several devices or links are busy, negative.
OVERLAP = "overlap"
_ROUNDING = 1e-9


@dataclass
class ScheduledStepModel(CompiledStepModel):
    """Operators of a block in dataflow order, each device and each link doing one at a time.

    Overlap is a result: of devices within a block where its dataflow allows it, and with
    ``sub_batches`` of parts of the batch, one computing while another attends. Equal layers are
    scheduled until they repeat (``Machine.run``).

    Of data-parallel ranks that share experts, each cuts its batch into as many parts.

    Attributes:
        sub_batches: parts that a batch is cut into, if it has as many sequences.
        prefill_ranks: ranks that share every prompt; the steps are those of one of them.
        reads: what the default device reads of its weights from its host, once for each part.
    """

    sub_batches: int = 1
    prefill_ranks: int = 1
    reads: HostReads | None = None
    _blocks: tuple[tuple[int, tuple[Piece, ...]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        models = [self.placement.cost_model(name) for name in self.placement.devices]
        if any(getattr(model, "needs_contexts", False) for model in models):
            self.needs_contexts = True
        self._blocks = tuple(cut(self.placement, self.reads))

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``."""
        if not max(batch.tokens, batch.padded_tokens):
            return 0.0
        lanes, parts, stretches = self._lanes(batch), [0.0] * len(SOURCES), []
        for count, pieces in self._blocks:
            tasks: list[tuple[Task, ...]] = []
            for lane in lanes:
                spent = [piece.seconds(lane) for piece in pieces]
                tasks.append(
                    tuple(
                        Task(piece.resources, sum(seconds), piece.after)
                        for piece, seconds in zip(pieces, spent, strict=True)
                    )
                )
                for i in range(len(parts)):
                    parts[i] += count * sum(seconds[i] for seconds in spent)
            stretches.append(Stretch(tuple(tasks), count))
        took, total = makespan(stretches), sum(parts)
        for i, seconds in enumerate(parts):
            self.spent[i] += seconds * took / total if total else 0.0
        return took

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only."""
        return self.seconds(BatchShape((), decodes, context, context_max))

    def busy_seconds(self, batch: BatchShape) -> dict[str, float]:
        """Seconds that each device, and each way of a link, is busy in a step of ``batch``."""
        busy: dict[str, float] = {}
        for count, pieces in self._blocks:
            for lane in self._lanes(batch):
                for piece in pieces:
                    seconds = count * sum(piece.seconds(lane))
                    for name in piece.resources:
                        busy[name] = busy.get(name, 0.0) + seconds
        return busy

    def cost_breakdown(self, batch: BatchShape) -> tuple[OpCost, ...]:
        """What each operator and transfer takes, and, negative, the overlap of them all."""
        if not max(batch.tokens, batch.padded_tokens):
            return ()
        rows = [
            row
            for count, pieces in self._blocks
            for lane in self._lanes(batch)
            for piece in pieces
            for row in piece.rows(lane, count)
        ]
        spent = list(self.spent)
        took = self.seconds(batch)
        hidden = took - fsum(row.seconds for row in rows)
        self.spent[:] = spent
        if hidden > -_ROUNDING * took:
            return tuple(rows)
        return (*rows, OpCost(OVERLAP, self.placement.default, 1, hidden, Source.ANALYTICAL))

    def _lanes(self, batch: BatchShape) -> tuple[Lane, ...]:
        """The parts of ``batch``."""
        if self.prefill_ranks > 1:
            batch = share_of_prefills(batch, self.prefill_ranks)
        lanes = []
        for part in padded_parts(batch, sub_batches(batch, self.sub_batches)):
            padded = self._padded(max(part.tokens, part.padded_tokens))
            gap = self._gap_seconds(padded) / self._kernels_alone if self._kernels_alone else 0.0
            lanes.append(Lane(part, padded, self._group_tokens(part), gap))
        return tuple(lanes)


def padded_parts(batch: BatchShape, parts: tuple[BatchShape, ...]) -> tuple[BatchShape, ...]:
    """``parts`` of ``batch`` with their shares of its padding, and of its group's tokens."""
    whole = max(batch.tokens, batch.padded_tokens)
    padding, group = whole - batch.tokens, batch.group_tokens
    if not padding and not group:
        return parts
    found, done = [], 0
    for i, part in enumerate(parts):
        own = part.tokens + padding * (i + 1) // len(parts) - padding * i // len(parts)
        share = group * (done + own) // whole - group * done // whole
        found.append(replace(part, padded_tokens=own, group_tokens=share))
        done += own
    return tuple(found)


def sub_batches(batch: BatchShape, parts: int) -> tuple[BatchShape, ...]:
    """``batch`` dealt to ``parts`` parts, sequence by sequence; whole if it has fewer sequences."""
    if parts == 1 or batch.decodes + len(batch.prefills) < parts:
        return (batch,)
    found = []
    for i in range(parts):
        decodes = len(range(i, batch.decodes, parts))
        contexts = None if batch.contexts is None else batch.contexts[i::parts]
        if contexts is None:
            done = sum(len(range(j, batch.decodes, parts)) for j in range(i))
            share = (done + decodes) * batch.decode_context // max(batch.decodes, 1)
            context = share - done * batch.decode_context // max(batch.decodes, 1)
            longest = batch.decode_context_max if decodes else 0
        else:
            context, longest = int(contexts.sum()), int(contexts.max(initial=0))
        prefills = batch.prefills[parts - 1 - i :: parts]  # the last part has fewest decodes
        # Each part reads for itself what is shared, and so often less of it again.
        reads = batch.shared_context + batch.repeated_context
        again = max(0, reads * decodes // max(batch.decodes, 1) - batch.shared_context)
        part = replace(
            batch,
            prefills=prefills,
            decodes=decodes,
            decode_context=context,
            decode_context_max=longest,
            contexts=contexts,
            repeated_context=again,
        )
        if part.tokens:
            found.append(part)
    return tuple(found)
