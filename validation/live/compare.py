"""A folder of recorded live runs, held against their simulation in every way there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from servesim.errors import CapacityError, InputError, UnsupportedError
from servesim.hardware.load import load_device
from servesim.scenario.build import Served
from servesim.validation.json_files import read_object
from servesim.validation.live.architectures import ARCHITECTURES
from servesim.validation.live.decisions import Decisions, replay_decisions
from servesim.validation.live.loads import LOADS
from servesim.validation.live.pace import slower_by
from servesim.validation.live.recorded import DEVICE, LiveRun, load, recordings
from servesim.validation.live.replay import Replay, replay_times
from servesim.validation.live.served import measured_run, serve_live
from servesim.validation.live.spread import Repeated, latencies, throughput
from servesim.validation.live.step_times import StepErrors, StepTimes, step_errors, step_times
from servesim.validation.run import RunResult, simulate_on


@dataclass(frozen=True)
class LoadComparison:
    """One architecture under one load, over all its repeats.

    Attributes:
        held_out: whether nobody looked at the architecture's runs to build the cost model.
        decisions: of the scheduler, given the recorded moments, by repeat.
        replays: with the recorded step lengths, by repeat; None where steps overlap.
        steps: errors of the step model by kind of step.
        latencies: of whole simulated runs: latency -> statistic -> numbers.
        throughput: output tokens a second of whole runs.
        results: of whole runs, by repeat.
    """

    model: str
    load: str
    held_out: bool
    decisions: tuple[Decisions, ...]
    replays: tuple[Replay | None, ...]
    steps: Mapping[str, StepErrors]
    latencies: Mapping[str, Mapping[str, Repeated]]
    throughput: Repeated
    results: tuple[RunResult, ...]


@dataclass(frozen=True)
class LiveComparison:
    """All recordings of a folder.

    Attributes:
        name: of the folder.
        about: date, versions, machine and command of the first.
        loads: what could be compared, by architecture and load.
        steps: errors over all steps of each architecture, by kind.
        slower: architecture -> by how much the machine was slower, in the median of the moments
            before its runs, than at its fastest; for recordings that noted it.
        failures: architecture -> why it could not be simulated.
    """

    name: str
    about: Mapping[str, Any]
    loads: tuple[LoadComparison, ...]
    steps: Mapping[str, Mapping[str, StepErrors]]
    slower: Mapping[str, float]
    failures: Mapping[str, str]

    @property
    def models(self) -> tuple[str, ...]:
        """Architectures that were compared."""
        return tuple(self.steps)


def compare_folder(folder: Path, device: str | None = None) -> LiveComparison:
    """Compare every recording below ``folder``.

    Args:
        device: name or file of the device to simulate; the one beside the recordings by default.

    Raises:
        InputError: there are no recordings, or one cannot be read.
    """
    paths = recordings(folder)
    if not paths:
        raise no_recordings(folder)
    device = device or str(folder / DEVICE)
    loads: list[LoadComparison] = []
    steps: dict[str, Mapping[str, StepErrors]] = {}
    failures: dict[str, str] = {}
    paces: dict[str, list[Mapping[str, float]]] = {}
    first = load(paths[0])
    load_device(device)  # raises here, not once an architecture
    for model, group in groupby(paths, key=lambda path: path.parts[-3]):
        runs = [load(path) for path in group]
        paces[model] = [run.pace for run in runs if run.pace]
        config = read_object(folder / model / "config.json")
        try:
            compared = [_compared(some, config, device) for some in _by_load(runs)]
        except (UnsupportedError, CapacityError) as error:
            failures[model] = str(error)
            continue
        loads += [one for one, _ in compared]
        steps[model] = step_errors(StepTimes.joined(times for _, times in compared))
    slower = slower_by(paces)
    return LiveComparison(folder.name, first.about, tuple(loads), steps, slower, failures)


def no_recordings(folder: Path) -> InputError:
    """What is wrong with a folder without recordings."""
    return InputError(f"no recorded runs (ARCHITECTURE/LOAD/N.json.gz) in {folder}")


def held_out(model: str) -> bool:
    """Whether the runs of an architecture were kept from those who built the cost model."""
    return any(one.name == model and not one.shapes_cost_model for one in ARCHITECTURES)


def _by_load(runs: Sequence[LiveRun]) -> list[list[LiveRun]]:
    """Runs of one model by load, the repeats in order; loads as they are listed in ``LOADS``."""
    known = [one.name for one in LOADS]
    names = list(dict.fromkeys(run.load for run in runs))
    names.sort(key=lambda name: known.index(name) if name in known else len(known))
    return [sorted((r for r in runs if r.load == name), key=lambda r: r.repeat) for name in names]


def _compared(
    runs: Sequence[LiveRun], config: Mapping[str, Any], device: str
) -> tuple[LoadComparison, StepTimes]:
    served = serve_live(runs[0], config, device)
    results = tuple(simulate_on(served, measured_run(run, config, device)) for run in runs)
    times = StepTimes.joined(step_times(run, served) for run in runs)
    compared = LoadComparison(
        runs[0].model,
        runs[0].load,
        held_out(runs[0].model),
        tuple(replay_decisions(run, served) for run in runs),
        tuple(_replayed(run, served) for run in runs),
        step_errors(times),
        latencies(results),
        throughput(results),
        results,
    )
    return compared, times


def _replayed(run: LiveRun, served: Served) -> Replay | None:
    try:
        return replay_times(run, served)
    except UnsupportedError:
        return None
