"""Metrics of serving: each a pure function of the records of a run.

TTFT is the time to the first token, TPOT the mean time per output token after it, ITL the time
between two tokens of a request, E2E the time to the last token; all in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servesim.errors import InputError
from servesim.runtime.gaps import WeightedSample
from servesim.runtime.records import InstanceRecords, Records, RequestRecords, Status

Values = npt.NDArray[np.float64]

#: Columns that latencies can be counted from: when the client sent the request, or when the engine
#: took it from its inbox.
ARRIVAL, QUEUED = "arrival_s", "queued_s"


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean and percentiles of a quantity over all requests or tokens; nan when there are none."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Slo:
    """Service-level objective: the most a request may take; None for no limit.

    Raises:
        InputError: a limit that is not positive.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise InputError(f"[slo] {name} must be positive, not {limit:g}")


def distribution(values: Values) -> Distribution:
    """Mean and percentiles (linear between order statistics) of ``values``."""
    if not len(values):
        return _describe(0, np.nan, lambda _: np.nan)
    return _describe(len(values), float(values.mean()), lambda q: float(np.quantile(values, q)))


def weighted_distribution(sample: WeightedSample) -> Distribution:
    """Mean and percentiles of a weighted sample."""
    return _describe(int(sample.total), sample.mean(), sample.quantile)


def _describe(count: int, mean: float, quantile: Callable[[float], float]) -> Distribution:
    return Distribution(count, mean, *(quantile(q) for q in (0.5, 0.9, 0.95, 0.99)))


def tokens_per_decode(records: Records) -> float:
    """Tokens that a decoding sequence gained in a step, on average; 1 without speculation.

    A little less where sequences are scheduled once more before it is known that they have stopped.
    """
    columns = [one.steps for one in records.instances]
    decodes = sum(float(steps.column("decodes").sum()) for steps in columns)
    extra = sum(float(steps.column("extra_tokens").sum()) for steps in columns)
    return 1.0 + extra / decodes if decodes else 1.0


def finished(requests: RequestRecords) -> npt.NDArray[np.bool_]:
    """Which rows were answered in full; the others have no latencies."""
    return np.asarray(requests.column("status") == Status.FINISHED)


def ttft(requests: RequestRecords, since: str = ARRIVAL) -> Values:
    """Seconds to the first token of each finished request."""
    return _between(requests, since, "first_token_s")


def e2e(requests: RequestRecords, since: str = ARRIVAL) -> Values:
    """Seconds to the last token of each finished request."""
    return _between(requests, since, "finished_s")


def tpot(requests: RequestRecords) -> Values:
    """Seconds per token after the first, of each finished request with at least two tokens."""
    gaps = requests.column("output_tokens")[finished(requests)] - 1
    return _between(requests, "first_token_s", "finished_s")[gaps > 0] / gaps[gaps > 0]


def itl(instances: tuple[InstanceRecords, ...]) -> WeightedSample:
    """Seconds between tokens of a request, over all tokens but the first ones."""
    sample = WeightedSample()
    for instance in instances:
        gaps = instance.steps.gaps()
        sample.add(gaps.values, gaps.weights)
    return sample


def makespan(requests: RequestRecords) -> float:
    """Seconds from the first arrival to the last token; 0 if nothing finished."""
    done = finished(requests)
    if not done.any():
        return 0.0
    ends = requests.column("finished_s")[done]
    return float(ends.max() - requests.column("arrival_s").min())


def goodput(requests: RequestRecords, slo: Slo) -> float:
    """Requests per second that met every limit of ``slo``."""
    good = np.ones(int(finished(requests).sum()), dtype=bool)
    if slo.ttft_s is not None:
        good &= ttft(requests) <= slo.ttft_s
    if slo.e2e_s is not None:
        good &= e2e(requests) <= slo.e2e_s
    if slo.tpot_s is not None:
        gaps = requests.column("output_tokens")[finished(requests)] - 1
        decode_s = _between(requests, "first_token_s", "finished_s")
        good &= decode_s <= slo.tpot_s * gaps
    return _per_second(int(good.sum()), makespan(requests))


def prefix_hit_rate(requests: RequestRecords) -> float:
    """Share of the finished requests' prompt tokens that the prefix cache held at admission."""
    done = finished(requests)
    prompts = int(requests.column("prompt_tokens")[done].sum())
    return float(requests.column("cached_tokens")[done].sum() / prompts) if prompts else 0.0


def kv_use(instance: InstanceRecords) -> tuple[float, float]:
    """Mean over the time of the steps, and peak, of the share of KV blocks held."""
    busy = instance.steps.busy_s()
    if not busy.sum() > 0:
        return 0.0, instance.steps.kv_blocks_peak / instance.kv_blocks
    held = float(instance.steps.column("kv_blocks") @ busy / busy.sum())
    return held / instance.kv_blocks, instance.steps.kv_blocks_peak / instance.kv_blocks


@dataclass(frozen=True, slots=True)
class Report:
    """The metrics of a run.

    Attributes:
        makespan_s: from the first arrival to the last token.
        request_throughput: finished requests per second of the makespan.
        output_throughput, total_throughput: their output tokens, and prompt and output tokens,
            per second of the makespan.
        kv_use_mean, kv_use_peak: share of KV blocks held, over the steps of all instances.
        preemptions: times a request lost its blocks.
        prefix_hit_rate: share of prompt tokens found in the prefix cache at admission.
        cancelled: requests that their clients gave up.
    """

    requests: int
    finished: int
    rejected: int
    makespan_s: float
    ttft: Distribution
    tpot: Distribution
    itl: Distribution
    e2e: Distribution
    request_throughput: float
    output_throughput: float
    total_throughput: float
    kv_use_mean: float
    kv_use_peak: float
    preemptions: int
    prefix_hit_rate: float
    steps: int
    cancelled: int = 0


def report(records: Records) -> Report:
    """All metrics of a run."""
    requests = records.requests
    done, span = finished(requests), makespan(requests)
    output = int(requests.column("output_tokens")[done].sum())
    prompt = int(requests.column("prompt_tokens")[done].sum())
    use = [kv_use(instance) for instance in records.instances]
    return Report(
        requests=len(requests),
        finished=int(done.sum()),
        rejected=requests.count(Status.REJECTED),
        cancelled=requests.count(Status.CANCELLED),
        makespan_s=span,
        ttft=distribution(ttft(requests)),
        tpot=distribution(tpot(requests)),
        itl=weighted_distribution(itl(records.instances)),
        e2e=distribution(e2e(requests)),
        request_throughput=_per_second(int(done.sum()), span),
        output_throughput=_per_second(output, span),
        total_throughput=_per_second(prompt + output, span),
        kv_use_mean=sum(mean for mean, _ in use) / len(use),
        kv_use_peak=max(peak for _, peak in use),
        preemptions=int(requests.column("preemptions").sum()),
        prefix_hit_rate=prefix_hit_rate(requests),
        steps=sum(int(instance.steps.column("steps").sum()) for instance in records.instances),
    )


def _between(requests: RequestRecords, start: str, end: str) -> Values:
    done = finished(requests)
    return np.asarray(requests.column(end)[done] - requests.column(start)[done], dtype=np.float64)


def _per_second(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
