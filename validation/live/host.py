"""What the host takes of a step beside the operators, fitted to recorded steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from servesim.errors import InputError
from servesim.hardware.host import HostTime
from servesim.validation.json_files import read_object
from servesim.validation.live.architectures import ARCHITECTURES
from servesim.validation.live.recorded import DEVICE, load, recordings
from servesim.validation.live.served import Times, serve_live
from servesim.validation.live.step_times import KINDS, step_times

#: Steps of equal size needed before their mean counts.
_FEWEST = 5
#: Rounds of reweighting, after which least squares is least absolute deviations; and the deviation
#: below which a sample is as good as any (seconds).
_ROUNDS, _EXACT = 20, 1e-6
_REMARK = "# Fitted to recorded steps of the architectures that shape the cost model."


@dataclass(frozen=True, slots=True)
class HostSample:
    """Steps of one architecture with equally many sequences, all with prefills or all without.

    Attributes:
        operators: of the model.
        steps: how many there are.
        operators_s: mean of what the operators are said to take.
        seconds: mean of what they took beyond that. It is the mean that adds up to the length of a
            run: steps that something held up count, too.
    """

    architecture: str
    sequences: int
    operators: int
    steps: int
    operators_s: float
    seconds: float


def host_samples(folder: Path, architectures: Collection[str]) -> list[HostSample]:
    """Samples of the recorded steps of ``architectures`` below ``folder``.

    Raises:
        ServesimError: a recording cannot be read, or its model not be simulated.
    """
    samples: list[HostSample] = []
    for name in sorted(architectures):
        samples += _samples_of(folder, name)
    return samples


def fit_host(samples: Sequence[HostSample]) -> HostTime:
    """The host time with the least absolute deviation from all steps, none of its parts negative.

    Raises:
        InputError: there are no samples.
    """
    if not samples:
        raise InputError("no recorded steps to fit the host's time to")
    columns = np.array([(1.0, s.sequences, s.operators, s.operators_s) for s in samples])
    seconds, steps = np.array([s.seconds for s in samples]), np.array([s.steps for s in samples])
    if len({s.operators for s in samples}) == 1:
        columns[:, 2] = 0.0  # cannot be told from the constant
    weights = np.sqrt(steps)
    for _ in range(_ROUNDS):
        best = _non_negative(columns * weights[:, None], seconds * weights)
        weights = np.sqrt(steps / np.maximum(np.abs(columns @ best - seconds), _EXACT))
    return HostTime(*(float(value) for value in best))


def fit_device_host(folder: Path) -> HostTime | None:
    """Fit the host's time and write it into the device file beside the recordings in ``folder``.

    Only architectures that shape the cost model count; without recordings of any there is nothing
    to fit, and nothing is written.

    Raises:
        ServesimError: a recording or the device file cannot be read, or a model not be simulated.
    """
    samples = host_samples(folder, [one.name for one in ARCHITECTURES if one.shapes_cost_model])
    if not samples:
        return None
    host, path = fit_host(samples), folder / DEVICE
    path.write_text(with_host(path.read_text(encoding="utf-8"), host), encoding="utf-8")
    return host


def with_host(text: str, host: HostTime) -> str:
    """The device file ``text`` with ``host`` as its ``[host]``, at the end."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("["):
            inside = line.startswith("[host]")
        if not inside and line != _REMARK:
            kept.append(line)
    rows = [f"{name} = {getattr(host, name):.4g}" for name in HostTime.__slots__]
    return "\n".join(["\n".join(kept).rstrip(), "", _REMARK, "[host]", *rows, ""])


def _samples_of(folder: Path, architecture: str) -> Iterator[HostSample]:
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    operators = 0
    config = folder / architecture / "config.json"
    for path in recordings(folder):
        if path.parts[-3] != architecture:
            continue
        run = load(path)
        served = serve_live(run, read_object(config), str(folder / DEVICE))
        operators = sum(len(block.ops) * block.count for block in served.graph.blocks)
        times = step_times(run, served)
        rows = zip(times.sequences, times.kinds, times.operators, times.measured, strict=True)
        for sequences, kind, operators_s, measured in rows:
            key = int(sequences), kind != KINDS.index("decode")
            found.setdefault(key, []).append((operators_s, measured - operators_s))
    for (sequences, _), steps in sorted(found.items()):
        if len(steps) >= _FEWEST:
            means = map(float, np.mean(steps, axis=0))
            yield HostSample(architecture, sequences, operators, len(steps), *means)


def _non_negative(columns: Times, wanted: Times) -> Times:
    """Least squares with coefficients from 0 on: the best over all choices of those above 0."""
    count = columns.shape[1]
    best, least = np.zeros(count), float(wanted @ wanted)
    for size in range(1, count + 1):
        for chosen in map(list, combinations(range(count), size)):
            given, *_ = np.linalg.lstsq(columns[:, chosen], wanted, rcond=None)
            rest = wanted - columns[:, chosen] @ given
            if (given >= 0).all() and rest @ rest < least:
                best, least = np.zeros(count), float(rest @ rest)
                best[chosen] = given
    return best
