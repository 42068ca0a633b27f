"""Running a scenario, and what comes out of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from servesim.hardware.cost import Source
from servesim.runtime import metrics
from servesim.runtime.cluster import Cluster, Progress
from servesim.runtime.energy.report import EnergyReport
from servesim.runtime.records import Records
from servesim.scenario.build import Deployment, build
from servesim.scenario.cost import CostReport, cost_of
from servesim.scenario.energy import energy_of
from servesim.scenario.spec import Scenario


@dataclass(frozen=True)
class Result:
    """What a run produced.

    Attributes:
        records: a row for each request and step.
        metrics: latencies, throughput and the rest, from the records.
        sources: share of the simulated step time by where its costs come from.
        wall_s: seconds the simulation took, without building the deployment.
    """

    deployment: Deployment
    records: Records
    metrics: metrics.Report
    sources: dict[Source, float]
    wall_s: float

    @property
    def scenario(self) -> Scenario:
        """What was simulated."""
        return self.deployment.scenario

    @cached_property
    def energy(self) -> EnergyReport | None:
        """What it drew; None when nothing is known of a device's power."""
        return energy_of(self.deployment, self.records)

    @cached_property
    def cost(self) -> CostReport:
        """What it costs."""
        return cost_of(self.deployment, self.records, self.energy)


def run(scenario: Scenario, progress: Progress | None = None) -> Result:
    """Build ``scenario`` and simulate it.

    Args:
        progress: called as requests finish, with how many are done, how many there are (None if
            unknown), and the simulated seconds.

    Raises:
        ServesimError: the scenario cannot be built, or its workload is empty.
    """
    return Simulation(build(scenario)).run(progress)


class Simulation:
    """A deployment whose workload is read, about to run once."""

    def __init__(self, deployment: Deployment) -> None:
        """Read the workload.

        Raises:
            InputError: it is empty or cannot be read.
        """
        self._deployment = deployment
        self._cluster = Cluster(
            deployment.workload, deployment.engines, deployment.router, system=deployment.system
        )

    def run(self, progress: Progress | None = None) -> Result:
        """Take every request to its end."""
        for one in self._deployment.served:
            one.step_model.reset()
        started = time.perf_counter()
        records = self._cluster.run(progress)
        wall_s = time.perf_counter() - started
        shares = _shares(self._deployment)
        return Result(self._deployment, records, metrics.report(records), shares, wall_s)


def simulate(scenario: Scenario | str | Path | None = None, **sections: Any) -> Result:
    """Simulate a scenario: one made before, a TOML file, or sections as keyword arguments.

    ``simulate("examples/llama-3.1-8b.toml", engine={"max_num_seqs": 64})`` runs the file's
    scenario with another option; without a file all comes from the sections:
    ``simulate(model="Qwen/Qwen3-8B", hardware="h100_sxm", workload={"kind": "poisson", ...})``.

    Raises:
        ServesimError: the scenario cannot be read, built or run.
    """
    if scenario is None:
        return run(Scenario.of(**sections))
    made = scenario if isinstance(scenario, Scenario) else Scenario.load(scenario)
    return run(made.changed(**sections) if sections else made)


def _shares(deployment: Deployment) -> dict[Source, float]:
    """Share of the step seconds of all instances by source."""
    seconds = dict.fromkeys(Source, 0.0)
    for one in deployment.served:
        for source, spent in one.step_model.source_seconds().items():
            seconds[source] += spent
    total = sum(seconds.values())
    return {source: s / total if total else 0.0 for source, s in seconds.items()}
