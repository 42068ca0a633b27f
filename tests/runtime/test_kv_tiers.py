"""Memories below the accelerator's: what they hold, what comes back from them, and when."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from drawn_requests import requests_that_share
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import Given, everything, request

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.graph.kv_layout import KvGroup
from servesim.graph.opgraph import CacheGroup
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import EngineOptions, Instance
from servesim.runtime.records import Records, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.step import LinearStepModel
from servesim.runtime.tiers.options import Offload, Tier, tiers_of
from servesim.runtime.tiers.store import TierRecords

#: A token of prefill takes 10 ms, a step nothing besides; KV has a byte a token.
MODEL = LinearStepModel(per_token_s=0.01)
SIZE = 4


def tier(name: str = "host", capacity: float = 1e6, **more: Any) -> Tier:
    return Tier(name=name, capacity_bytes=capacity, **{"bandwidth": 1000.0, **more})


def offload(*tiers: Tier, **more: Any) -> Offload:
    given = {"chunk_tokens": 8, "bytes_per_token": 1.0, "num_layers": 4, **more}
    return Offload(tiers=tiers, **given)


def run(
    requests: Sequence[RequestSpec],
    *offloads: Offload | None,
    blocks: int = 1000,
    visit_all: bool = False,
    **more: Any,
) -> Records:
    given = {"block_size": SIZE, "max_num_seqs": 4, "max_num_batched_tokens": 64, **more}
    config = EngineConfig(**{"async_scheduling": False, **given})
    engines = [
        Instance(config, MODEL, blocks, name=f"engine-{i}", offload=one)
        for i, one in enumerate(offloads)
    ]
    return simulate(Given(requests), engines, options=EngineOptions(visit_all=visit_all))


def asked(number: int, arrival_s: float, tokens: int, *ids: int) -> RequestSpec:
    return request(number, arrival_s, tokens, 1, prefix_block_ids=ids, prefix_block_size=SIZE)


def twice_on_two_engines(*tiers: Tier, **more: Any) -> Records:
    """A prompt of 33 tokens on one engine and, a while later, on the other."""
    one = offload(*tiers, **more)
    return run([asked(0, 0.0, 33, *range(8)), asked(1, 1.0, 33, *range(8))], one, one)


def test_a_shared_pool_spares_the_other_engine_its_prefill() -> None:
    records = twice_on_two_engines(tier(pool="all"), layerwise=False)
    requests = records.requests
    assert requests.column("recalled_tokens").tolist() == [0, 32]
    # 32 bytes at 1000 a second, then one token; without the pool it takes 0.33 s.
    assert requests.column("first_token_s").tolist() == pytest.approx([0.33, 1.0 + 0.032 + 0.01])
    (pool,) = records.tiers
    assert pool.column("written_bytes")[-1] == 32
    assert pool.column("read_bytes")[-1] == pool.column("hit_tokens")[-1] == 32


def test_layers_are_computed_while_those_after_them_come_back() -> None:
    records = twice_on_two_engines(tier(pool="all"))
    # Four layers: the last comes back after 32 ms and then takes a quarter of 10 ms.
    assert records.requests.column("first_token_s")[1] == pytest.approx(1.0 + 0.032 + 0.0025)
    fast = twice_on_two_engines(tier(pool="all", bandwidth=8000.0))
    # 4 ms of transfer hide behind 10 ms of computing but for the first layer's.
    assert fast.requests.column("first_token_s")[1] == pytest.approx(1.0 + 0.010 + 0.001)


def test_tiers_of_engines_that_share_no_pool_are_their_own() -> None:
    records = twice_on_two_engines(tier())
    assert records.requests.column("recalled_tokens").tolist() == [0, 0]
    assert [pool.column("written_bytes")[-1] for pool in records.tiers] == [32, 32]


def test_what_was_written_can_be_read_only_once_it_is_there() -> None:
    slow = tier(pool="all", write_bandwidth=10.0)  # 3.2 s for 32 bytes
    assert twice_on_two_engines(slow).requests.column("recalled_tokens").tolist() == [0, 0]
    one = offload(slow)
    later = run([asked(0, 0.0, 33, *range(8)), asked(1, 4.0, 33, *range(8))], one, one)
    assert later.requests.column("recalled_tokens").tolist() == [0, 32]


def test_recomputing_where_that_is_cheaper() -> None:
    slow = tier(pool="all", bandwidth=50.0, write_bandwidth=1e6)  # 0.64 s against 0.32 s
    always = twice_on_two_engines(slow, recall="always")
    cheaper = twice_on_two_engines(slow, recall="cheaper")
    assert always.requests.column("recalled_tokens").tolist() == [0, 32]
    assert cheaper.requests.column("recalled_tokens").tolist() == [0, 0]
    assert cheaper.requests.column("first_token_s")[1] == pytest.approx(1.33)


@pytest.mark.parametrize("write", ["through", "back"])
def test_what_the_accelerator_displaces_comes_back_from_below(write: str) -> None:
    prompts = [asked(i, float(i), 33, *range(100 * i, 100 * i + 8)) for i in range(3)]
    again = asked(3, 3.0, 33, *range(8))
    records = run([*prompts, again], offload(tier(write=write)), blocks=21)
    assert records.requests.column("recalled_tokens")[3] > 0
    written = records.tiers[0].column("written_bytes")[-1]
    assert (written == 96) == (write == "through")  # the copy of what fits is not written back


def test_swapping_a_preempted_sequence_out() -> None:
    requests = [request(i, 0.0, 16, 60) for i in range(3)]
    swapped = run(requests, offload(tier(write="back")), blocks=30)
    recomputed = run(requests, None, blocks=30)
    assert swapped.requests.column("preemptions").sum() > 0
    assert swapped.tiers[0].column("hit_tokens")[-1] > 0
    ends = [one.requests.column("finished_s").max() for one in (swapped, recomputed)]
    assert ends[0] < ends[1]


def test_a_lower_tier_takes_what_the_one_above_gives_up() -> None:
    upper, lower = tier("host", 32), tier("nvme", 1e6, write="back", bandwidth=100.0)
    prompts = [asked(i, float(i), 33, *range(100 * i, 100 * i + 8)) for i in range(3)]
    records = run(prompts, offload(upper, lower))
    host, nvme = records.tiers
    assert host.column("resident_bytes").max() == 32
    assert nvme.column("resident_bytes")[-1] == 64


def test_an_exclusive_tier_lets_go_of_what_it_gives_back() -> None:
    for exclusive in (False, True):
        one = offload(tier(pool="all", exclusive=exclusive))
        records = run([asked(i, float(i), 33, *range(8)) for i in range(2)], one, one)
        assert records.tiers[0].column("resident_bytes")[-1] == (0 if exclusive else 32)


MIXES = list(
    product(["lru", "fifo", "lfu", "cost_aware"], ["through", "back"], [False, True], ["", "all"])
)


@settings(max_examples=80, deadline=None)
@given(
    requests_that_share(16, (0.0, 0.1, 0.5), SIZE),
    st.sampled_from(MIXES),
    st.sampled_from(MIXES),
    st.sampled_from([24, 60, 400]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_every_mix_of_policies_conserves_bytes_and_decides_alike(
    requests: list[RequestSpec], upper: Any, lower: Any, capacity: int, flags: tuple[bool, ...]
) -> None:
    def tiers() -> list[Tier]:
        return [
            tier(name, size, eviction=mix[0], write=mix[1], exclusive=mix[2], pool=mix[3] and name)
            for name, size, mix in (("host", capacity, upper), ("nvme", 4 * capacity, lower))
        ]

    asynchronous, swap, layerwise = flags
    one = offload(*tiers(), swap=swap, layerwise=layerwise)
    options = {"async_scheduling": asynchronous, "blocks": 32}
    records = run(requests, one, one, **options)
    reference = run(requests, one, one, visit_all=True, **options)
    assert everything(records) == everything(reference)
    done = records.requests.count(Status.FINISHED) + records.requests.count(Status.REJECTED)
    assert done == len(requests)
    for store in records.requests.pools.stores:
        assert store.bytes_in == store.bytes_out + store.resident <= store.bytes_out + 4 * capacity
        assert store.read >= 0 or store.hit_tokens == 0
        column = store.records.column
        for name in ("time_s", "written_bytes", "read_bytes", "hit_tokens"):
            assert (np.diff(column(name)) >= 0).all()
        assert column("resident_bytes").max(initial=0) <= store.tier.capacity_bytes
    cached = records.requests.column("cached_tokens")
    assert (records.requests.column("recalled_tokens") <= cached).all()
    assert (cached <= records.requests.column("prompt_tokens")).all()


def test_an_engine_with_idle_tiers_is_the_plain_one() -> None:
    requests = [request(i, 0.3 * i, 10 + i, 20) for i in range(20)]
    plain = run(requests, None)
    tiered = run(requests, offload(tier(), chunk_tokens=1024))
    assert everything(plain) == everything(tiered)


def test_very_many_rows_are_thinned_out() -> None:
    records = TierRecords("host", "", 1.0, limit=8)
    for time in range(100):
        records.add(float(time), (1.0, float(time), 0.0, 0.0))
    assert len(records) <= 8
    assert records.column("written_bytes").tolist() == records.column("time_s").tolist()
    assert records.column("time_s")[-1] == 99


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tier(capacity=0), InputError, "capacity_bytes must be above 0, not 0"),
        (lambda: tier(latency_s=-1.0), InputError, "latency_s must be a time"),
        (lambda: tier(write="behind"), InputError, "'through' or 'back', not 'behind'"),
        (lambda: tier(eviction="lur"), UnknownNameError, "did you mean 'lru'"),
        (offload, InputError, "names of their own, not none"),
        (lambda: offload(tier(), tier()), InputError, "names of their own, not host, host"),
        (lambda: tiers_of([{"name": "x"}]), InputError, "tier 'x': capacity_bytes is missing"),
        (lambda: tiers_of([{"nam": "x"}]), UnknownNameError, "did you mean 'name'"),
        (
            lambda: run([asked(0, 0.0, 9)], offload(tier(), chunk_tokens=6)),
            InputError,
            "chunk_tokens 6 must be a multiple of the KV block size, 4",
        ),
        (
            lambda: run([asked(0, 0.0, 9)], offload(tier(pool="a")), offload(tier("b", pool="a"))),
            InputError,
            "two tiers of pool 'a' are not alike",
        ),
        (
            lambda: run([asked(0, 0.0, 9)], offload(tier()), enable_prefix_caching=False),
            UnsupportedError,
            "KV tiers need prefix caching",
        ),
    ],
)
def test_tiers_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_tiers_need_layers_that_keep_every_token() -> None:
    window = KvGroup(CacheGroup("window", (0,), 1.0, 8), SIZE, 1)
    config = EngineConfig(block_size=SIZE)
    engine = Instance(config, MODEL, 100, kv_groups=(window,), offload=offload(tier()))
    with pytest.raises(UnsupportedError, match="whose layers all keep every token"):
        simulate(Given([asked(0, 0.0, 9)]), [engine])
