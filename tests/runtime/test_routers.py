"""What each router is there for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from runtime_runs import Given, request

from servesim.errors import InputError, UnknownNameError
from servesim.runtime import metrics
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import DEFAULT_OPTIONS, Instance
from servesim.runtime.member import Member
from servesim.runtime.plan import Plan
from servesim.runtime.records import Records, RequestRecords
from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot
from servesim.runtime.step import LinearStepModel

STEP = LinearStepModel(base_s=0.01, per_token_s=0.001)
CONFIG = EngineConfig(max_num_seqs=32, max_num_batched_tokens=256)


def idle(*names: str, **values: object) -> list[Snapshot]:
    return [Snapshot(name, 0, 0, 100, 100, **values) for name in names]  # type: ignore[arg-type]


def run(router: str, requests: list[RequestSpec], **options: object) -> Records:
    instances = [Instance(CONFIG, STEP, 4000, f"i{i}") for i in range(4)]
    return simulate(Given(requests), instances, ROUTERS.build(router, options))


def conversations(count: int = 40, turns: int = 8) -> list[RequestSpec]:
    """Sessions whose prompts grow by 64 tokens a turn, in random order."""
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(count), turns))
    seen: Counter[int] = Counter()
    requests = []
    for number, session in enumerate(map(int, order)):
        seen[session] += 1
        blocks = tuple(range(1000 * session, 1000 * session + 4 * seen[session]))
        spec = request(number, 0.1 * number, 64 * seen[session] + 5, 20)
        requests.append(replace(spec, session=session, prefix_block_ids=blocks))
    return requests


def test_random_and_power_of_two_depend_on_their_seed() -> None:
    for kind in ("random", "power_of_two"):
        chosen = [
            [ROUTERS.build(kind, {"seed": seed}).choose(request(i, 0, 1, 1), idle(*"abcdefgh"))]
            for seed in (0, 0, 1, 2, 3)
            for i in range(1)
        ]
        assert chosen[0] == chosen[1]
        assert len({tuple(one) for one in chosen}) > 1


def test_random_is_even_and_two_choices_are_more_so() -> None:
    requests = [request(i, 0.02 * i, 50, 100) for i in range(800)]

    def worst(kind: str) -> float:
        waits = metrics.ttft(run(kind, requests).requests)
        return float(np.quantile(waits, 0.99))

    counts = Counter(run("random", requests).requests.instance)
    assert all(abs(count - 200) < 60 for count in counts.values())
    assert worst("power_of_two") < worst("random")


def test_routers_that_know_prefixes_find_them() -> None:
    requests = conversations()

    def hits(kind: str, **options: object) -> float:
        return metrics.prefix_hit_rate(run(kind, requests, **options).requests)

    assert hits("session_affinity") > 0.76  # all there are: each session stays
    assert hits("prefix_aware") > 0.7
    assert hits("kv_aware", overlap_weight=20.0) > 0.7
    assert hits("kv_aware") > hits("least_loaded") + 0.05
    assert hits("round_robin") < 0.45


def test_kv_aware_sees_evictions_that_prefix_aware_cannot() -> None:
    near, far = Snapshot("near", 0, 0, 90, 100, cached_tokens=64), Snapshot("far", 0, 0, 100, 100)
    spec = request(0, 0.0, 320, 1, prefix_block_ids=tuple(range(20)))
    router = ROUTERS.build("kv_aware", {"overlap_weight": 4.0})
    assert router.choose(spec, [far, near]) == 1  # 4 blocks found, weighing 16, for 10 in use
    assert router.choose(spec, [far, replace(near, cached_tokens=16)]) == 0
    assert ROUTERS.build("kv_aware").choose(spec, [far, near]) == 0


def test_what_a_preempted_request_had_is_no_prefix_of_others() -> None:
    requests = RequestRecords()
    member = Member(0, Instance(CONFIG, STEP, 100, "i0"), requests, DEFAULT_OPTIONS)
    first, other = request(0, 0.0, 40, 9), request(1, 0.0, 40, 9)
    member.engine.submit(first, requests.add(first))
    member.engine.run(0.0, 0.0)
    member.engine.complete()
    scheduler = member.engine.scheduler
    (seq,) = scheduler.running.values()
    scheduler.preempt(seq, Plan())
    assert len(scheduler.find(seq)) == 2  # it finds its own blocks again
    assert member.snapshot(other, ("cached_tokens",)).cached_tokens == 0


def test_prefix_aware_leaves_an_overloaded_instance() -> None:
    router = ROUTERS.build("prefix_aware", {"imbalance": 2})
    spec = request(0, 0.0, 32, 1, prefix_block_ids=(0, 1))
    instances = idle("a", "b")
    assert router.choose(spec, [replace(instances[0], running=1), instances[1]]) == 1
    assert router.choose(spec, [instances[0], replace(instances[1], running=2)]) == 1
    assert router.choose(spec, [instances[0], replace(instances[1], running=3)]) == 0
    assert router.choose(spec, instances) == 0  # and stays where it was sent last


def test_prefix_aware_forgets() -> None:
    router = ROUTERS.build("prefix_aware", {"index_blocks": 2})
    first = request(0, 0.0, 32, 1, prefix_block_ids=(0, 1))
    busy, free = replace(idle("a")[0], running=1), idle("b")[0]
    assert router.choose(first, [busy, free]) == 1
    router.choose(request(1, 0.0, 32, 1, prefix_block_ids=(7, 8)), [busy, free])
    assert router.choose(first, [idle("a")[0], replace(free, running=1)]) == 0


def test_a_session_stays_when_other_instances_leave() -> None:
    router = ROUTERS.build("session_affinity")
    names = [f"i{i}" for i in range(5)]
    sessions = [replace(request(i, 0.0, 1, 1), session=i) for i in range(300)]
    before = [names[router.choose(spec, idle(*names))] for spec in sessions]
    after = [names[router.choose(spec, idle(*names[:-1]))] for spec in sessions]
    assert len(set(before)) == 5
    assert all(a == b for a, b in zip(after, before, strict=True) if b != names[-1])


def test_slo_aware_minds_whichever_objective_is_nearer() -> None:
    slow_start = replace(idle("a")[0], ttft_s=0.9, tpot_s=0.01)
    slow_steps = replace(idle("b")[0], ttft_s=0.1, tpot_s=0.045)
    choose = ROUTERS.build("slo_aware", {"ttft_s": 1.0, "tpot_s": 0.05}).choose
    assert choose(request(0, 0.0, 1, 1), [slow_start, replace(slow_steps, tpot_s=0.04)]) == 1
    assert choose(request(0, 0.0, 1, 1), [replace(slow_start, ttft_s=0.7), slow_steps]) == 0


def test_slo_aware_knows_fast_from_slow_instances() -> None:
    fast = Instance(CONFIG, STEP, 4000, "fast")
    slow = Instance(CONFIG, LinearStepModel(base_s=0.04, per_token_s=0.004), 4000, "slow")
    requests = [request(i, 0.05 * i, 100, 30) for i in range(200)]
    sent = simulate(Given(requests), [slow, fast], ROUTERS.build("slo_aware")).requests.instance
    assert list(sent).count(1) > 120


def test_requests_that_name_a_model_reach_only_it() -> None:
    instances = [Instance(CONFIG, STEP, 100, f"i{i}", model="ab"[i % 2]) for i in range(4)]
    requests = [replace(request(i, 0.0, 10, 1), model="aab"[i % 3]) for i in range(9)]
    for kind in ROUTERS.names():
        sent = simulate(Given(requests), instances, ROUTERS.build(kind)).requests.instance
        assert all(instances[i].model == spec.model for i, spec in zip(sent, requests, strict=True))


def test_per_model_takes_turns_for_each_model() -> None:
    instances = [Instance(CONFIG, STEP, 100, f"i{i}", model="ab"[i % 2]) for i in range(4)]
    requests = [replace(request(i, 0.0, 10, 1), model="ab"[i % 2]) for i in range(8)]
    router = ROUTERS.build("per_model", {"default": "round_robin"})
    sent = simulate(Given(requests), instances, router).requests.instance
    assert list(sent) == [0, 1, 2, 3, 0, 1, 2, 3]


def test_an_unserved_model_is_rejected() -> None:
    spec = replace(request(0, 0.0, 10, 1), model="c")
    got = simulate(Given([spec]), [Instance(CONFIG, STEP, 100, model="a")]).requests
    assert got.reasons == {0: "no instance serves c"}


def test_options_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="round_robin"):
        ROUTERS.build("per_model", {"models": {"a": "round_robbin"}})
    with pytest.raises(InputError, match="tpot_s must be positive, not 0"):
        ROUTERS.build("slo_aware", {"tpot_s": 0})
    with pytest.raises(InputError, match="min_match"):
        ROUTERS.build("prefix_aware", {"min_match": 2})
