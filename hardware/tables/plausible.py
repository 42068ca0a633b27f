"""Times that kernels of a device do not have: most likely they are in another unit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from servesim.errors import InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.opgraph import OpGraph
from servesim.graph.work import AttentionWork, GemmWork, Work
from servesim.hardware.bounds import least_seconds
from servesim.hardware.cost import CostModel, Source
from servesim.hardware.device import Device

#: Prompts and decodes to ask about: those bounded by arithmetic, and by memory.
_PROMPTS, _DECODES = (2048, 512, 128), (1, 64)
#: Share of its bound that a time may fall to. Units are off by a thousand; tables that are known
#: to have skipped part of the work (attention on H200, the LM head on TPU v6e) by half.
_LEAST_SHARE = 0.3
#: Products long enough that what they take beside arithmetic and memory hardly counts, in seconds
#: by the device's own costs, and the median multiple of those that no kernel would be used at.
_LONG, _MOST_MULTIPLE = 50e-6, 100.0


def require_plausible(costs: CostModel, graph: OpGraph, device: Device, where: Path) -> None:
    """Refuse measured ``costs`` of operators of ``graph`` that beat the device's peaks, or crawl.

    Peak arithmetic, or memory delivering what exceeds the cache. Decodes' attention is left out:
    the benchmark of an older layout read one short context for all of them. Too slow are products
    whose median is far from the device's own costs.

    Raises:
        InputError: they do.
    """
    multiples = []
    for name, tokens, work in _works(graph):
        cost, least = costs.cost(work), least_seconds(work, device)
        if cost.source is not Source.MEASURED:
            continue
        if cost.seconds < _LEAST_SHARE * least:
            raise InputError(
                f"{where}: {name} of {tokens} tokens takes {cost.seconds * 1e6:.3g} "
                f"µs as measured, but at least {least * 1e6:.3g} µs on {device.name}: is the "
                "unit of the times right, and the model?"
            )
        if isinstance(work, GemmWork) and (own := _own_seconds(work, device)) > _LONG:
            multiples.append(cost.seconds / own)
    if multiples and (slow := median(multiples)) > _MOST_MULTIPLE:
        raise InputError(
            f"{where}: matrix products take {slow:.0f} times what they should on "
            f"{device.name}: is the unit of the times right?"
        )


def _own_seconds(work: Work, device: Device) -> float:
    """What the device's own costs say; 0 where they know nothing of such work."""
    try:
        return device.cost_model.cost(work).seconds
    except UnsupportedError:
        return 0.0


def _works(graph: OpGraph) -> Iterator[tuple[str, int, Work]]:
    """Operators by name and tokens, and their work, where there is something to say of it."""
    batches = [BatchShape.of([(new, 0)]) for new in _PROMPTS]
    batches += [BatchShape.of_tokens(count) for count in _DECODES]
    for batch in batches:
        for op, _ in graph.weighted_ops():
            work = op.work(batch) if op.runs(batch) else None
            if work is not None and not _unknown(work):
                yield op.name, batch.tokens, work


def _unknown(work: Work) -> bool:
    """Whether nothing is to be said of its least time."""
    return work.family == "collective" or (isinstance(work, AttentionWork) and work.decodes > 0)
