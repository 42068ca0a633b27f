"""How a run went over time, in bins of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servesim.runtime.records import InstanceRecords, Records

Floats = npt.NDArray[np.float64]

DEFAULT_BINS = 120


@dataclass(frozen=True, slots=True)
class Timeline:
    """Averages over each bin, all instances together.

    Attributes:
        starts: when each bin starts, in seconds; ``width`` seconds each.
        prompt_rate, output_rate: prompt tokens computed and tokens generated, per second.
        running, waiting: requests.
        kv_share: share of the KV blocks held.
    """

    starts: Floats
    width: float
    prompt_rate: Floats
    output_rate: Floats
    running: Floats
    waiting: Floats
    kv_share: Floats


def timeline(records: Records, bins: int = DEFAULT_BINS) -> Timeline:
    """The run's course; sums over steps are spread evenly over each step's time."""
    end = max((one.steps.end_s[-1] for one in records.instances if len(one.steps)), default=0.0)
    width = float(end / bins) or 1.0
    edges: Floats = np.arange(bins + 1, dtype=np.float64) * width
    first = records.requests.column("first_token_s")
    firsts, _ = np.histogram(first[np.isfinite(first)], edges)
    blocks = sum(one.kv_blocks for one in records.instances)

    def total(name: str) -> Floats:
        return _total(records.instances, name, edges)

    def average(name: str) -> Floats:
        return _total(records.instances, name, edges, by_time=True) / width

    return Timeline(
        starts=edges[:-1],
        width=width,
        prompt_rate=total("prefill_tokens") / width,
        output_rate=(total("decodes") + total("extra_tokens") + firsts) / width,
        running=average("running"),
        waiting=average("waiting"),
        kv_share=average("kv_blocks") / max(blocks, 1),
    )


def _total(
    instances: Sequence[InstanceRecords], name: str, edges: Floats, by_time: bool = False
) -> Floats:
    """Sum of a steps' column in each bin; ``by_time`` takes values times seconds."""
    out = np.zeros(len(edges) - 1)
    for one in instances:
        if len(one.steps):
            starts, ends = one.steps.column("start_s"), one.steps.column("end_s")
            amounts = one.steps.column(name) * ((ends - starts) if by_time else 1.0)
            out += spread(starts, ends, amounts, edges)
    return out


def spread(starts: Floats, ends: Floats, amounts: Floats, edges: Floats) -> Floats:
    """What falls into each bin when every amount is spread evenly from its start to its end.

    The intervals must be in order and must not overlap.
    """
    knots = np.column_stack((starts, ends)).ravel()
    done = np.column_stack((np.cumsum(amounts) - amounts, np.cumsum(amounts))).ravel()
    return np.diff(np.interp(edges, knots, done))
