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
from servesim.runtime.frontend import VLLM
from servesim.runtime.records import Records
from servesim.runtime.request import RequestSpec
from servesim.runtime.source import OpenSource
from servesim.runtime.system import System
from servesim.scenario.build import Served, serve
from servesim.scenario.sections import HardwareSection, Instance, ModelSection
from servesim.validation.compare import Comparison, compare
from servesim.validation.measured import MeasuredRun


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to simulate a measured run with.

    Attributes:
        hardware: the device's name or file; the run's own when None.
        model: its id, folder or config.json; the run's own when None.
        profile: folder of measured layer or kernel latencies.
        collectives: what was measured of the devices' collectives.
        link: bandwidth and latency of the link between the devices, instead of the device's own.
        engine: engine options in place of the run's.
    """

    hardware: str | None = None
    model: str | None = None
    profile: Path | None = None
    collectives: Path | None = None
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
    return simulate_on(serve_run(run, options), run)


def serve_run(run: MeasuredRun, options: RunOptions | None = None) -> Served:
    """What ``run`` was measured on, ready to simulate.

    Raises:
        ServesimError: the run's model, device or options cannot be simulated.
    """
    options = options or RunOptions()
    with _model(run, options.model) as model:
        return serve(_instance(run, model, options))


def simulate_on(served: Served, run: MeasuredRun) -> RunResult:
    """Simulate the requests of ``run`` on ``served`` and compare.

    A run that was measured by the clients of a server is simulated with vLLM's front end.

    Raises:
        ServesimError: a request does not finish.
    """
    started = time.perf_counter()
    system = System(frontend=VLLM) if run.clock == "server" else None
    records = simulate(_Replayed(run), served.engines, system=system)
    wall_s = time.perf_counter() - started
    return RunResult(run, served, records, compare(run, records), wall_s)


def _instance(run: MeasuredRun, model: ModelSection, options: RunOptions) -> Instance:
    hardware = HardwareSection(
        device=options.hardware or run.hardware,
        profile=options.profile,
        collectives=options.collectives,
        link=options.link,
    )
    engine = EngineConfig.from_options({**run.engine, **(options.engine or {})})
    instance = Instance(run.name, 1, model, hardware, engine)
    instance.require_complete()
    return instance


@contextmanager
def _model(run: MeasuredRun, given: str | None) -> Iterator[ModelSection]:
    """The ``given`` model, or the run's by name or as a folder of that name with its config."""
    with tempfile.TemporaryDirectory() as folder:
        name, routing = given or run.model, None
        if given is None and run.hf_config is not None:
            place = Path(folder) / run.model
            place.mkdir(parents=True)
            (place / "config.json").write_text(json.dumps(dict(run.hf_config)), encoding="utf-8")
            name = str(place)
        if given is None and run.experts:
            counts = Path(folder) / "experts.csv"
            rows = (",".join(map(str, layer)) for layer in run.experts)
            counts.write_text("\n".join(rows), encoding="utf-8")
            routing = {"kind": "recorded", "path": counts}
        yield ModelSection(name, fused=run.fused, expert_routing=routing)
