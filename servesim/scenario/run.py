"""Running a scenario, and what comes out of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.hardware.cost import Source
from servesim.runtime import metrics
from servesim.runtime.cluster import Progress
from servesim.runtime.cluster import simulate as simulate_cluster
from servesim.runtime.records import Records
from servesim.scenario.build import Deployment, build
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


def run(scenario: Scenario, progress: Progress | None = None) -> Result:
    """Build ``scenario`` and simulate it.

    Args:
        progress: called as requests finish, with how many are done, how many there are (None if
            unknown), and the simulated seconds.

    Raises:
        ServesimError: the scenario cannot be built, or its workload is empty.
    """
    return run_deployment(build(scenario), progress)


def run_deployment(deployment: Deployment, progress: Progress | None = None) -> Result:
    """Simulate what ``build`` made.

    Raises:
        InputError: the workload is empty or cannot be read.
    """
    before = _source_seconds(deployment)
    started = time.perf_counter()
    records = simulate_cluster(
        deployment.workload, deployment.engines, deployment.router, progress=progress
    )
    wall_s = time.perf_counter() - started
    after = _source_seconds(deployment)
    spent = {source: after[source] - before[source] for source in Source}
    total = sum(spent.values())
    shares = {source: s / total if total else 0.0 for source, s in spent.items()}
    return Result(deployment, records, metrics.report(records), shares, wall_s)


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


def _source_seconds(deployment: Deployment) -> dict[Source, float]:
    """Step seconds answered so far, by source, over all instances."""
    total = dict.fromkeys(Source, 0.0)
    for one in deployment.served:
        for source, seconds in one.step_model.source_seconds().items():
            total[source] += seconds
    return total
