"""The operators of a placement, equal ones taken together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from servesim.graph.batch import BatchShape
from servesim.graph.op import Op, OpSpec
from servesim.graph.work import AttentionWork, CollectiveWork, Work
from servesim.hardware.cost import Cost, kernels_alone
from servesim.hardware.placement import Placement

#: Options of an attention spec that make its work depend on every context, not on their sum.
_CLIPPING = ("window", "chunk", "selected")
#: A batch in which every operator runs.
_PROBE = BatchShape(((2, 1),), 1, 1, 1)


@dataclass(frozen=True)
class Group:
    """Equal operators: one cost, ``count`` times a step.

    Attributes:
        alone: whether the cost is that of a kernel without the gap to the next one.
    """

    op: Op
    count: int
    label: str
    device: str
    cost: Callable[[Work], Cost]
    alone: bool

    def of(self, batch: BatchShape) -> Cost | None:
        """The cost of one run for ``batch``; None when it does not run."""
        return self.cost(self.op.work(batch)) if self.op.runs(batch) else None


def grouped(placement: Placement) -> Iterable[Group]:
    """Operators of equal spec, label and device, with the times they run, in graph order."""
    found: dict[tuple[OpSpec, str, str], tuple[Op, int]] = {}
    for block in placement.graph.blocks:
        for op in block.ops:
            key = (op.spec, op.label or op.name, placement.name_of(block, op))
            first, count = found.get(key, (op, 0))
            found[key] = first, count + block.count
    for (_, label, name), (op, count) in found.items():
        collective = isinstance(op.work(_PROBE), CollectiveWork)
        alone = not collective and kernels_alone(placement.cost_model(name))
        yield Group(op, count, label, name, _coster(placement, name), alone)


def _coster(placement: Placement, name: str) -> Callable[[Work], Cost]:
    def cost(work: Work) -> Cost:
        return placement.cost(name, work)

    return cost


def clips(op: Op) -> bool:
    """Whether the work of ``op`` depends on every context, not on their sum."""
    return any(getattr(op.spec, option, None) is not None for option in _CLIPPING)


def decode_work(op: Op) -> Callable[[int, int, int], AttentionWork] | None:
    """For plain full attention: its work from decodes, their keys, and the most keys of one."""
    probe = BatchShape((), 1, 1, 1)
    if clips(op) or getattr(op.spec, "context_ranks", 1) > 1 or not op.runs(probe):
        return None
    like = op.work(probe)
    if not isinstance(like, AttentionWork) or like.prefills:  # decodes gathered into one prefill
        return None
    shape = (like.heads, like.kv_heads, like.head_dim, like.value_dim, like.dtype, like.kv_dtype)
    latent, label = like.latent, like.label

    def work(decodes: int, keys: int, keys_max: int) -> AttentionWork:
        return AttentionWork((), decodes, keys, keys_max, *shape, None, latent, label)

    return work
