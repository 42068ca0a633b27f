"""Times that no kernel of a device can have: most likely they are in another unit."""

from __future__ import annotations

from pathlib import Path

from servesim.errors import InputError
from servesim.graph.batch import BatchShape
from servesim.graph.opgraph import OpGraph
from servesim.graph.work import AttentionWork, Work
from servesim.hardware.bounds import least_seconds
from servesim.hardware.cost import CostModel, Source
from servesim.hardware.device import Device

#: Prompts and decodes to ask about: those bounded by arithmetic, and by memory.
_PROMPTS, _DECODES = (2048, 512, 128), (1, 64)
#: Share of its bound that a time may fall to. Units are off by a thousand; tables that are known
#: to have skipped part of the work (attention on H200, the LM head on TPU v6e) by half.
_LEAST_SHARE = 0.3


def require_plausible(costs: CostModel, graph: OpGraph, device: Device, where: Path) -> None:
    """Refuse measured ``costs`` of operators of ``graph`` that beat the device's peaks.

    Peak arithmetic, or memory delivering what exceeds the cache. Decodes' attention is left out:
    the benchmark of an older layout read one short context for all of them.

    Raises:
        InputError: they do.
    """
    batches = [BatchShape.of([(new, 0)]) for new in _PROMPTS]
    batches += [BatchShape.of_tokens(count) for count in _DECODES]
    for batch in batches:
        for op, _ in graph.weighted_ops():
            work = op.work(batch) if op.runs(batch) else None
            if work is None or _unknown(work):
                continue
            cost, least = costs.cost(work), least_seconds(work, device)
            if cost.source is Source.MEASURED and cost.seconds < _LEAST_SHARE * least:
                raise InputError(
                    f"{where}: {op.name} of {batch.tokens} tokens takes {cost.seconds * 1e6:.3g} "
                    f"µs as measured, but at least {least * 1e6:.3g} µs on {device.name}: is the "
                    "unit of the times right, and the model?"
                )


def _unknown(work: Work) -> bool:
    """Whether nothing is to be said of its least time."""
    return work.family == "collective" or (isinstance(work, AttentionWork) and work.decodes > 0)
