"""Generated systems of everything at once: roles, parallelisms, speculation, networks, failures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from runtime_runs import Given, request
from test_attention_ffn_steps import LAYERS, Null
from test_attention_ffn_steps import model as attention_ffn
from test_random_deployments import PLACED_EVERY, _instance

from servesim.hardware.attention_ffn import Sides
from servesim.hardware.link import Link
from servesim.hardware.topologies import TOPOLOGIES, build_topology
from servesim.runtime.cluster import System, simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.encoder import LinearEncoder
from servesim.runtime.failures import Failures
from servesim.runtime.handover import HandoverOptions
from servesim.runtime.instance import Instance
from servesim.runtime.records import Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role
from servesim.runtime.routers import ROUTERS
from servesim.runtime.step import LinearStepModel

SYSTEMS = 200
GROUPS = 10


def instances(rng: np.random.Generator, *, with_placements: bool) -> list[Instance]:
    found: list[Instance] = []
    for role, least in ((Role.PREFILL, 1), (Role.DECODE, 1), (Role.BOTH, 0)):
        for number in range(int(rng.integers(least, 3))):
            found += [
                replace(
                    one,
                    role=role,
                    kv_bytes_per_token=float(rng.integers(0, 30)),
                    num_layers=int(rng.integers(1, 5)),
                )
                for one in _instance(rng, f"{role.value}{number}", False, with_placements)
            ]
    return found


def with_ffns_apart(rng: np.random.Generator, made: list[Instance]) -> list[Instance]:
    """``made``, some of them with attention and FFNs on different devices."""
    models = {
        one.wave or one.name: attention_ffn(
            Null(float(rng.random()) / LAYERS, 0.01, per_token=True),
            int(rng.integers(1, 4)),
            link=Link("between", 1e5, 0.01),
            sides=Sides(max(1, sum(one.wave == other.wave != "" for other in made)), 1, 2),
        )
        for one in made
        if rng.integers(2) and one.config.speculative_config is None
    }
    return [
        replace(one, step_model=models[name])
        if (name := one.wave or one.name) in models and isinstance(one.step_model, LinearStepModel)
        else one
        for one in made
    ]


def encoders(rng: np.random.Generator) -> list[Instance]:
    """Encode instances, or none."""
    return [
        Instance(
            EngineConfig(
                max_num_seqs=int(rng.integers(1, 5)),
                max_num_batched_tokens=int(rng.integers(16, 100)),
                async_scheduling=bool(rng.integers(2)),
                enable_prefix_caching=False,
            ),
            LinearStepModel(),
            int(rng.integers(8, 20)),
            f"encode{number}",
            role=Role.ENCODE,
            encoder=LinearEncoder(0.1, 0.01),
            embedding_bytes_per_token=float(rng.integers(0, 30)),
        )
        for number in range(int(rng.integers(3)))
    ]


def with_images(rng: np.random.Generator, spec: RequestSpec) -> RequestSpec:
    """``spec`` with up to three images, or none."""
    sizes = rng.integers(1, spec.prompt_tokens // 3 + 1, int(rng.integers(4)))
    return replace(spec, images=tuple(int(size) for size in sizes))


def requests(rng: np.random.Generator) -> list[RequestSpec]:
    times = np.sort(rng.uniform(0, 30, int(rng.integers(1, 25))))
    return [
        request(
            number,
            float(time),
            int(rng.integers(15, 100)),
            int(rng.integers(1, 40)),
            prefix_block_ids=(0,) if rng.integers(2) else (),
        )
        for number, time in enumerate(times)
    ]


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_request_is_accounted_for(group: int) -> None:
    for seed in range(group, SYSTEMS, GROUPS):
        rng = np.random.default_rng(seed)
        made = instances(rng, with_placements=seed % PLACED_EVERY == 0)
        others = np.random.default_rng((seed, 1))
        inside = LinearEncoder(0.1, 0.01) if others.integers(2) else None
        made = [replace(one, encoder=inside) for one in with_ffns_apart(others, made)]
        made += encoders(others)
        in_waves = any(one.wave for one in made)  # ranks in lock step cannot fail one by one
        system = System(
            build_topology(
                str(rng.choice(sorted(TOPOLOGIES))),
                [one.name for one in made],
                Link("test", 1000.0, 0.005),
            ),
            HandoverOptions(
                str(rng.choice(["after_prefill", "layerwise"])),  # type: ignore[arg-type]
                str(rng.choice(["decode", "prefill"])),  # type: ignore[arg-type]
            ),
            Failures(mtbf_s=None if in_waves or rng.integers(2) else 100.0, mttr_s=5.0),
        )
        router = ROUTERS.build(str(rng.choice(ROUTERS.names())))
        given = [with_images(others, spec) for spec in requests(rng)]
        got = simulate(Given(given), made, router, system=system).requests
        for row in range(len(got)):
            if got.status[row] == Status.REJECTED:
                assert row in got.reasons, seed
                continue
            assert got.status[row] == Status.FINISHED, seed
            assert got.arrival_s[row] <= got.first_token_s[row] <= got.finished_s[row], seed
            assert made[got.instance[row]].role is not Role.PREFILL or got.output_tokens[row] == 1
