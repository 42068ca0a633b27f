"""What requests share with those before them, measured and drawn again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from servesim.runtime.request import RequestSpec


@dataclass(frozen=True, slots=True)
class Shape:
    """The length of a request and its reuse of a context.

    Attributes:
        shared_tokens: leading prompt tokens, in whole blocks, that an earlier request had, too.
        lag: requests since the last one that had the last of those blocks; 0 without any.
    """

    prompt_tokens: int
    output_tokens: int
    shared_tokens: int
    lag: int


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """Lengths, rate and reuse of a trace.

    Attributes:
        rate: requests per second.
        burstiness: of a gamma distribution of gaps with their mean and variance.
        reuse: share of the prompt tokens that an endless prefix cache would hold.
        mean_lag: requests between a reuse and the use before it.
    """

    requests: int
    rate: float
    burstiness: float
    mean_prompt_tokens: float
    mean_output_tokens: float
    reuse: float
    mean_lag: float


def shapes(requests: Iterable[RequestSpec]) -> list[Shape]:
    """The shape of each request, in order."""
    last: dict[int, int] = {}
    found = []
    for number, spec in enumerate(requests):
        ids = spec.prefix_block_ids[: (spec.prompt_tokens - 1) // spec.prefix_block_size]
        shared = next((i for i, block in enumerate(ids) if block not in last), len(ids))
        lag = number - last[ids[shared - 1]] if shared else 0
        found.append(
            Shape(spec.prompt_tokens, spec.output_tokens, shared * spec.prefix_block_size, lag)
        )
        last.update(dict.fromkeys(spec.prefix_block_ids, number))
    return found


def statistics(requests: Sequence[RequestSpec]) -> TraceStatistics:
    """The statistics of a trace of at least two requests that do not all come at once."""
    found = shapes(requests)
    gaps = np.diff([spec.arrival_s for spec in requests])
    prompt = sum(shape.prompt_tokens for shape in found)
    lags = [shape.lag for shape in found if shape.lag]
    return TraceStatistics(
        requests=len(found),
        rate=float(1 / gaps.mean()),
        burstiness=float((gaps.mean() / gaps.std()) ** 2) if gaps.std() else float("inf"),
        mean_prompt_tokens=prompt / len(found),
        mean_output_tokens=sum(shape.output_tokens for shape in found) / len(found),
        reuse=sum(shape.shared_tokens for shape in found) / prompt,
        mean_lag=sum(lags) / len(lags) if lags else 0.0,
    )
