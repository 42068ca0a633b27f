"""Simulating a measured run: the same model, device, engine options and requests."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.records import Records
from servesim.runtime.request import RequestSpec
from servesim.runtime.source import OpenSource
from servesim.scenario.build import Served, serve
from servesim.scenario.sections import HardwareSection, Instance, ModelSection
from servesim.validation.compare import Comparison, compare
from servesim.validation.measured import MeasuredRun


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to simulate a measured run with.

    Attributes:
        hardware: the device's name or file; the run's own when None.
        profile: folder of measured layer latencies.
        link: bandwidth and latency of the link between the devices, instead of the device's own.
        engine: engine options in place of the run's.
    """

    hardware: str | None = None
    profile: Path | None = None
    link: Mapping[str, Any] | None = None
    engine: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RunResult:
    """A measured run beside its simulation.

    Attributes:
        served: what was simulated.
        wall_s: seconds the simulation took, without tracing and reading tables.
    """

    run: MeasuredRun
    served: Served
    records: Records
    comparison: Comparison
    wall_s: float


@dataclass(frozen=True)
class _Replayed:
    """The requests of a measured run as a workload."""

    run: MeasuredRun

    def source(self) -> OpenSource:
        """The requests at their measured arrivals."""
        start = min(r.arrival_s for r in self.run.requests)
        block = int(self.run.engine.get("block_size", 16))
        requests = [
            RequestSpec(
                r.id,
                r.arrival_s - start,
                r.prompt_tokens,
                r.output_tokens,
                r.prefix_block_ids,
                block,
            )
            for r in self.run.requests
        ]
        return OpenSource(requests, len(requests))


def simulate_run(run: MeasuredRun, options: RunOptions | None = None) -> RunResult:
    """Simulate ``run`` and compare.

    Raises:
        ServesimError: the run's model, device or options cannot be simulated, or a request of it
            does not finish.
    """
    options = options or RunOptions()
    with _model(run) as model:
        served = serve(_instance(run, model, options))
    started = time.perf_counter()
    records = simulate(_Replayed(run), served.engines)
    wall_s = time.perf_counter() - started
    return RunResult(run, served, records, compare(run, records), wall_s)


def _instance(run: MeasuredRun, model: str, options: RunOptions) -> Instance:
    hardware = HardwareSection(options.hardware or run.hardware, options.profile, options.link)
    engine = EngineConfig.from_options({**run.engine, **(options.engine or {})})
    return Instance(run.name, 1, ModelSection(model), hardware, engine)


@contextmanager
def _model(run: MeasuredRun) -> Iterator[str]:
    """The run's model by name, or as a folder of that name with its own config.json."""
    if run.hf_config is None:
        yield run.model
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / run.model
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(dict(run.hf_config)), encoding="utf-8")
        yield str(place)
