"""Hundreds of generated deployments: parallelisms, placements, speculation, adapters, routers."""

from __future__ import annotations

import numpy as np
import pytest
from placed_models import any_placed
from runtime_runs import Given, everything, request

from servesim.runtime.cluster import Cluster
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import DEFAULT_OPTIONS, Instance
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.records import Records, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS
from servesim.runtime.step import LinearStepModel, StepModel

DEPLOYMENTS = 300
#: Placed operators take longer to simulate: they are in a part of the deployments.
PLACED_EVERY = 3
GROUPS = 20
ROUTERS_USED = ("round_robin", "least_loaded")


def generated(seed: int) -> tuple[list[Instance], list[RequestSpec], str]:
    """Instances, requests and a router, all drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    lora = bool(rng.integers(2))
    instances: list[Instance] = []
    for number in range(rng.integers(1, 4)):
        instances += _instance(rng, f"i{number}", lora, seed % PLACED_EVERY == 0)
    requests = [_request(rng, i, lora) for i in range(rng.integers(1, 25))]
    requests.sort(key=lambda spec: spec.arrival_s)
    return instances, requests, str(rng.choice(ROUTERS_USED))


def _instance(
    rng: np.random.Generator, name: str, lora: bool, with_placements: bool = False
) -> list[Instance]:
    """One engine, or the ranks of one in lock step or apart."""
    stages, ranks = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    speculative = {
        "num_speculative_tokens": int(rng.integers(1, 5)), "acceptance_rate": float(rng.random()),
    }  # fmt: skip
    config = EngineConfig(
        max_num_seqs=int(rng.integers(1, 9)),
        max_num_batched_tokens=int(rng.integers(64, 100)),
        enable_prefix_caching=bool(rng.integers(2)),
        scheduling_policy=str(rng.choice(["fcfs", "priority"])),
        async_scheduling=bool(rng.integers(2)),
        enforce_eager=bool(rng.integers(2)),
        enable_lora=lora,
        max_loras=int(rng.integers(1, 3)),
        speculative_config=speculative if rng.integers(2) else None,
    )
    model: StepModel = LinearStepModel(float(rng.random()), 0.01, 0.02, 0.0001)
    if with_placements and not rng.integers(3):
        model = any_placed(rng)
    if stages > 1:
        model = StagedStepModel((model,) * stages, lambda tokens: 0.001 * tokens)
    wave = name if ranks > 1 and rng.integers(2) else ""
    blocks = int(rng.integers(10, 40))
    return [
        Instance(config, model, blocks, f"{name}/{i}", wave=wave, adapter_load_s=0.1)
        for i in range(ranks)
    ]


def _request(rng: np.random.Generator, number: int, lora: bool) -> RequestSpec:
    prompt = int(rng.integers(1, 160))
    shared = int(rng.integers(0, prompt // 16 + 1))
    return request(
        number,
        float(rng.exponential(10)),
        prompt,
        int(rng.integers(1, 40)),
        prefix_block_ids=tuple(range(shared)),
        priority=int(rng.integers(3)),
        adapter=int(rng.integers(4)) if lora and rng.integers(2) else None,
    )


def run(seed: int) -> tuple[Cluster, Records]:
    instances, requests, router = generated(seed)
    cluster = Cluster(Given(requests), instances, ROUTERS.build(router, {}), DEFAULT_OPTIONS)
    return cluster, cluster.run()


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_request_is_accounted_for(group: int) -> None:
    for seed in range(group, DEPLOYMENTS, GROUPS):
        cluster, records = run(seed)
        columns = records.requests
        done = columns.column("status") == Status.FINISHED
        refused = columns.column("status") == Status.REJECTED
        assert (done | refused).all(), seed
        assert len(columns.reasons) == refused.sum()
        order = ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "finished_s")
        times = np.array([columns.column(name)[done] for name in order])
        assert (np.diff(times, axis=0) >= 0).all(), seed
        for member in cluster.members:
            cache = member.engine.scheduler.cache
            assert cache.free == cache.total, seed
            assert member.engine.idle
        _check_steps(records, seed)


def _check_steps(records: Records, seed: int) -> None:
    """Rows follow each other, and hold every token."""
    columns = records.requests
    done = columns.column("status") == Status.FINISHED
    for one in records.instances:
        starts, ends = one.steps.column("start_s"), one.steps.column("end_s")
        assert (starts[1:] >= ends[:-1] - 1e-9).all(), seed
    output = columns.column("output_tokens")[done]
    gained = sum(
        one.steps.column("decodes").sum() + one.steps.column("extra_tokens").sum()
        for one in records.instances
    )
    again = columns.column("preemptions")[done]
    # A token that a preempted request gets from computing its prompt anew is no decode's.
    assert output.sum() - done.sum() - again.sum() <= gained <= output.sum() - done.sum(), seed


@pytest.mark.parametrize("seed", [3, 77, 141])
def test_equal_seeds_give_equal_runs(seed: int) -> None:
    assert everything(run(seed)[1]) == everything(run(seed)[1])
