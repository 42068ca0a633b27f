"""Prefill and decode on different instances: by hand, against bounds, under back-pressure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from runtime_runs import Given, request

from servesim.errors import InputError
from servesim.graph.kv_layout import KvGroup
from servesim.graph.opgraph import CacheGroup
from servesim.hardware.link import Link
from servesim.hardware.topologies import build_topology
from servesim.runtime import metrics
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.handover import HandoverOptions
from servesim.runtime.instance import Instance
from servesim.runtime.records import Records, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role
from servesim.runtime.step import LinearStepModel
from servesim.runtime.system import System

#: A step takes a second and a tenth of one per token.
SLOW = LinearStepModel(base_s=1.0, per_token_s=0.1)
CONFIG = EngineConfig(max_num_seqs=8, max_num_batched_tokens=64, async_scheduling=False)
#: Ten bytes a token over 100 B/s with 50 ms of latency: a token takes 0.1 s.
LINK = Link("test", 100.0, 0.05)


def instance(name: str, role: Role, **more: object) -> Instance:
    given = {"num_gpu_blocks": 100, "kv_bytes_per_token": 10.0, "num_layers": 4, **more}
    return Instance(CONFIG, SLOW, name=name, role=role, **given)  # type: ignore[arg-type]


def run(
    requests: Sequence[RequestSpec],
    prefills: int = 1,
    decodes: int = 1,
    decode: dict[str, object] | None = None,
    **options: str,
) -> Records:
    instances = [instance(f"p{i}", Role.PREFILL) for i in range(prefills)]
    instances += [instance(f"d{i}", Role.DECODE, **decode or {}) for i in range(decodes)]
    topology = build_topology("switch", [one.name for one in instances], LINK)
    system = System(topology, HandoverOptions(**options))  # type: ignore[arg-type]
    records = simulate(Given(requests), instances, system=system)
    assert records.requests.count(Status.FINISHED) == len(requests)
    return records


def test_the_decode_instance_gives_the_first_token() -> None:
    got = run([request(0, 0.0, 20, 3)]).requests
    # Prefill 1 + 2 s; 200 B in 2 s and 50 ms; then three steps of one token, 1.1 s each.
    assert got.transfer_start_s[0] == pytest.approx(3.0)
    assert got.transfer_end_s[0] == pytest.approx(5.05)
    assert got.first_token_s[0] == pytest.approx(6.15)
    assert got.finished_s[0] == pytest.approx(8.35)
    assert (got.prefill_instance[0], got.instance[0]) == (0, 1)


def test_the_prefill_instance_gives_the_first_token() -> None:
    records = run([request(0, 0.0, 20, 3)], first_token="prefill")
    got = records.requests
    assert got.first_token_s[0] == pytest.approx(3.0)
    assert got.finished_s[0] == pytest.approx(5.05 + 2 * 1.1)
    gaps = metrics.itl(records.instances)
    assert sorted(gaps.values) == pytest.approx([1.1, 3.15])  # the transfer counts


def test_a_single_token_of_the_prefill_instance_is_all() -> None:
    got = run([request(0, 0.0, 20, 1)], first_token="prefill").requests
    assert got.finished_s[0] == pytest.approx(3.0)
    assert np.isnan(got.transfer_end_s[0])


def test_layers_are_sent_while_others_are_computed() -> None:
    got = run([request(0, 0.0, 20, 3)], transfer="layerwise").requests
    # From 0.75 s, a quarter of the step, 150 B in 1.5 s: there before the step ends at 3 s. The
    # last layer's 50 B follow in 0.5 s.
    assert got.transfer_start_s[0] == pytest.approx(0.75)
    assert got.transfer_end_s[0] == pytest.approx(3.0 + 0.5 + 0.05)


def test_a_slow_network_is_busy_all_the_time_when_layers_overlap() -> None:
    got = run(
        [request(0, 0.0, 20, 3)], decode={"kv_bytes_per_token": 100.0}, transfer="layerwise"
    ).requests
    # 1500 B from 0.75 s to 15.75 s, then the last 500 B; each piece with its latency.
    assert got.transfer_end_s[0] == pytest.approx(0.75 + 20.0 + 2 * 0.05)


def test_chunks_of_a_long_prompt_are_sent_as_they_come() -> None:
    prompt = [request(0, 0.0, 128, 1)]  # two steps of 64 tokens, 7.4 s each; 6.4 s to send one
    after = run(prompt).requests.transfer_end_s[0]
    early = run(prompt, transfer="layerwise").requests.transfer_end_s[0]
    assert after == pytest.approx(14.8 + 12.8 + 0.05)
    assert early == pytest.approx(14.8 + 1.6 + 0.05)


def test_transfers_to_one_instance_share_its_link() -> None:
    got = run([request(0, 0.0, 20, 1), request(1, 0.0, 20, 1)], prefills=2).requests
    assert list(got.transfer_end_s) == pytest.approx([3.0 + 4.0 + 0.05] * 2)
    apart = run([request(0, 0.0, 20, 1), request(1, 0.0, 20, 1)], prefills=2, decodes=2).requests
    assert list(apart.transfer_end_s) == pytest.approx([3.0 + 2.0 + 0.05] * 2)


def test_links_carry_exactly_the_kv_of_all_prompts() -> None:
    requests = [request(i, 0.3 * i, 10 + i, 5) for i in range(20)]
    for transfer in ("after_prefill", "layerwise"):
        records = run(requests, prefills=2, decodes=3, transfer=transfer)
        sent = sum(size for name, size in records.links.items() if name.endswith("switch"))
        assert sent == pytest.approx(10 * sum(spec.prompt_tokens for spec in requests))
        received = sum(size for name, size in records.links.items() if name.startswith("switch"))
        assert received == pytest.approx(sent)


def test_a_prefix_that_the_decode_instance_has_is_not_sent_again() -> None:
    shared = {"prefix_block_ids": (0, 1)}
    requests = [request(0, 0.0, 40, 2, **shared), request(1, 50.0, 40, 2, **shared)]
    records = run(requests)
    assert records.links["p0 -> switch"] == pytest.approx(10 * (40 + 8))
    assert list(records.requests.cached_tokens) == [0, 32]


def test_a_full_decode_pool_holds_the_prefill_pool_back() -> None:
    requests = [request(i, 0.0, 40, 24) for i in range(12)]
    roomy = run(requests)
    tight = run(requests, decode={"num_gpu_blocks": 5})  # one request at a time
    assert max(tight.instances[1].steps.column("running")) == 1
    assert metrics.makespan(tight.requests) > metrics.makespan(roomy.requests)
    # Nothing is lost and nothing preempted: room is made before anything is sent.
    assert sum(tight.requests.preemptions) == 0
    starts = np.sort(tight.requests.column("transfer_start_s"))
    ends = np.sort(tight.requests.column("finished_s"))
    assert (starts[1:] >= ends[:-1]).all()


def test_a_full_prefill_instance_waits_for_its_kv_to_leave() -> None:
    instances = [
        instance("p", Role.PREFILL, num_gpu_blocks=5),
        instance("d", Role.DECODE, num_gpu_blocks=9),
    ]
    topology = build_topology("full", ["p", "d"], LINK)
    requests = [request(i, 0.0, 40, 40) for i in range(6)]
    records = simulate(Given(requests), instances, system=System(topology))
    assert records.requests.count(Status.FINISHED) == 6
    assert records.instances[0].steps.kv_blocks_peak <= 4


def test_unequal_pools_share_by_load() -> None:
    got = run([request(i, 0.1 * i, 20, 30) for i in range(60)], prefills=1, decodes=3).requests
    assert set(got.prefill_instance) == {0}
    counts = [list(got.instance).count(number) for number in (1, 2, 3)]
    assert min(counts) >= 15


def test_waiting_for_prefill_is_that_of_an_m_d_1_queue() -> None:
    # Prompts of 10 tokens, one at a time, 2 s each, Poisson arrivals: M/D/1. Pollaczek and
    # Khinchine: mean wait rho/(2 (1 - rho)) * 2 s. Decode and network have room for all.
    rho, service_s, count = 0.6, 2.0, 8000
    times = np.random.default_rng(7).exponential(service_s / rho, count).cumsum()
    requests = [request(i, float(t), 10, 1) for i, t in enumerate(times)]
    alone = replace(CONFIG, max_num_seqs=1)
    prefill = replace(instance("p", Role.PREFILL), config=alone)
    decode = instance("d", Role.DECODE, kv_bytes_per_token=0.0)
    system = System(
        build_topology("full", ["p", "d"], LINK), HandoverOptions(first_token="prefill")
    )
    got = simulate(Given(requests), [prefill, decode], system=system).requests
    waits = metrics.ttft(got) - service_s
    assert waits.mean() == pytest.approx(rho / (2 * (1 - rho)) * service_s, rel=0.1)


def test_errors() -> None:
    both = [instance("a", Role.PREFILL), instance("b", Role.DECODE)]
    with pytest.raises(InputError, match="need a network"):
        simulate(Given([request(0, 0.0, 1, 1)]), both)
    with pytest.raises(InputError, match="no decode one"):
        simulate(Given([request(0, 0.0, 1, 1)]), both[:1])
    same = [replace(one, name="x") for one in both]
    system = System(build_topology("full", ["x"], LINK))
    with pytest.raises(InputError, match="different names"):
        simulate(Given([request(0, 0.0, 1, 1)]), same, system=system)


def test_what_no_decode_instance_holds_is_rejected_at_once() -> None:
    instances = [instance("p", Role.PREFILL), instance("d", Role.DECODE, num_gpu_blocks=3)]
    system = System(build_topology("full", ["p", "d"], LINK))
    got = simulate(Given([request(0, 0.0, 30, 30)]), instances, system=system).requests
    assert got.reasons == {0: "60 tokens need 4 KV blocks; there are 2"}


def test_a_state_of_the_last_step_can_be_found_by_who_comes_when_nothing_runs() -> None:
    config = replace(CONFIG, block_size=4, prefix_cache_retention_interval=None)
    groups = (
        KvGroup(CacheGroup("full", (0,), 1.0), 4, 1),
        KvGroup(CacheGroup("state", (1,), 0.0, None, 1.0), 1 << 10, 1),
    )
    instances = [
        replace(instance(role.value, role), config=config, kv_groups=groups)
        for role in (Role.PREFILL, Role.DECODE)
    ]
    # The answer of the first ends with the step that computes the state after token 16.
    requests = [
        request(0, 0.0, 8, 9, prefix_block_ids=tuple(range(4)), prefix_block_size=4),
        request(1, 100.0, 24, 2, prefix_block_ids=tuple(range(6)), prefix_block_size=4),
    ]
    topology = build_topology("switch", [one.name for one in instances], LINK)
    records = simulate(Given(requests), instances, system=System(topology))
    assert records.requests.count(Status.FINISHED) == 2
