"""What holds for any workload and any options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import everything, run

from servesim.runtime.engine import Engine
from servesim.runtime.kv.cache import KVCache
from servesim.runtime.kv.counting import CountingCache
from servesim.runtime.kv.prefix import PrefixCache
from servesim.runtime.metrics import report
from servesim.runtime.records import Records, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.step import LinearStepModel

MODEL = LinearStepModel(0.005, 2e-5, 1e-4, 1e-8, repeated_saves_s=7e-9)


@dataclass(frozen=True)
class Case:
    """A workload with options under which it runs."""

    requests: list[RequestSpec]
    blocks: int
    config: dict[str, object]

    def run(self, **more: object) -> Records:
        return run(self.requests, blocks=self.blocks, model=MODEL, **{**self.config, **more})


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size = draw(st.sampled_from([1, 2, 4, 16]))
    sequences = draw(st.integers(1, 10))
    config: dict[str, object] = {
        "block_size": size,
        "max_num_seqs": sequences,
        "max_num_batched_tokens": max(sequences, draw(st.sampled_from([4, 16, 64]))),
        "enable_prefix_caching": draw(st.booleans()),
        "long_prefill_token_threshold": draw(st.sampled_from([0, 0, 3, 8])),
        "scheduling_policy": draw(st.sampled_from(["fcfs", "priority"])),
        "scheduler_reserve_full_isl": draw(st.booleans()),
        "async_scheduling": draw(st.booleans()),
    }
    blocks = draw(st.sampled_from([70, 90, 120, 2000])) // size + 2
    return Case(draw(_requests(size)), blocks, config)


@st.composite
def _requests(draw: st.DrawFn, size: int) -> list[RequestSpec]:
    now, requests = 0.0, []
    for number in range(draw(st.integers(1, 24))):
        now += draw(st.sampled_from([0.0, 0.001, 0.01, 0.05]))
        prompt, output = draw(st.integers(1, 50)), draw(st.integers(1, 20))
        most = (prompt + output) // size
        shared = draw(st.integers(0, most))
        group = draw(st.integers(0, 2))
        ids = tuple(range(group * 1000, group * 1000 + shared))
        priority = draw(st.integers(0, 2))
        requests.append(RequestSpec(number, now, prompt, output, ids, size, priority))
    return requests


@settings(max_examples=150, deadline=None)
@given(cases())
def test_counted_decodes_are_exactly_the_visited_ones(case: Case) -> None:
    assert everything(case.run()) == everything(case.run(visit_all=True))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_blocks_that_nobody_shares_need_no_identity(case: Case) -> None:
    named = [_named(spec) for spec in case.requests]
    assert everything(dataclasses.replace(case, requests=named).run()) == everything(case.run())


def _named(spec: RequestSpec) -> RequestSpec:
    """The same request with an identity of its own for every block that has none."""
    blocks = (spec.prompt_tokens + spec.output_tokens) // spec.prefix_block_size
    own = range(10_000 * (spec.id + 1), 10_000 * (spec.id + 1) + blocks)
    ids = (*spec.prefix_block_ids, *own[len(spec.prefix_block_ids) :])
    return dataclasses.replace(spec, prefix_block_ids=ids)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_request_ends_and_no_token_is_lost(case: Case) -> None:
    records = case.run()
    requests = records.requests
    done = requests.column("status") == Status.FINISHED
    assert len(requests) == len(case.requests)
    assert requests.count(Status.UNFINISHED) == 0
    assert sorted(requests.reasons) == list(np.flatnonzero(~done))
    output = requests.column("output_tokens")[done]
    assert records.instances[0].steps.gaps().total == (output - 1).sum()
    steps = records.instances[0].steps
    computed = steps.column("prefill_tokens").sum() + steps.column("decodes").sum()
    needed = (requests.column("prompt_tokens")[done] + output - 1).sum()
    if not requests.column("preemptions").any():
        assert computed == needed - requests.column("cached_tokens").sum()
    else:  # what was computed again comes on top, what was found in the cache goes off
        assert computed >= needed - requests.column("prompt_tokens").sum()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_time_goes_forward_and_causes_come_first(case: Case) -> None:
    records = case.run()
    steps = records.instances[0].steps
    start, end = steps.column("start_s"), steps.column("end_s")
    assert (start < end).all()
    assert (start[1:] >= end[:-1]).all()
    requests = records.requests
    done = requests.column("status") == Status.FINISHED
    arrival, queued, scheduled, first, finished = (
        requests.column(name)[done]
        for name in ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "finished_s")
    )
    assert (arrival <= queued).all()
    assert (queued <= scheduled).all()
    assert (scheduled + MODEL.base_s <= first).all()
    gaps = requests.column("output_tokens")[done] - 1
    assert (finished - first >= gaps * MODEL.base_s * (1 - 1e-9)).all()
    if (gaps == 0).any():
        assert (finished == first)[gaps == 0].all()


@settings(max_examples=40, deadline=None)
@given(cases())
def test_blocks_for_all_mean_no_preemption(case: Case) -> None:
    size = case.config["block_size"]
    assert isinstance(size, int)
    all_blocks = sum(-(-(r.prompt_tokens + r.output_tokens) // size) for r in case.requests)
    records = dataclasses.replace(case, blocks=all_blocks + 1).run()
    assert not records.requests.column("preemptions").any()
    assert records.requests.count(Status.FINISHED) == len(case.requests)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_same_run_leaves_the_same_bytes(case: Case) -> None:
    assert everything(case.run()) == everything(case.run())


@settings(max_examples=40, deadline=None)
@given(cases())
def test_thinned_out_steps_keep_sums_and_gaps(case: Case) -> None:
    full, thin = case.run(), case.run(step_rows=4)
    assert len(thin.instances[0].steps) <= 4
    for name in ("steps", "prefill_tokens", "prefills", "decodes"):
        kept = thin.instances[0].steps.column(name).sum()
        assert kept == full.instances[0].steps.column(name).sum()
    ours, theirs = report(thin), report(full)
    assert ours.itl == theirs.itl
    assert ours.kv_use_mean == pytest.approx(theirs.kv_use_mean)
    assert ours.kv_use_peak == theirs.kv_use_peak


@settings(max_examples=60, deadline=None)
@given(cases())
def test_blocks_are_conserved_at_every_step(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        original, seen = Engine.complete, []

        def checked(engine: Engine) -> object:
            finished = original(engine)
            _check_blocks(engine)
            seen.append(engine)
            return finished

        patch.setattr(Engine, "complete", checked)
        records = case.run()
    if records.requests.count(Status.FINISHED):
        assert seen
        assert seen[-1].scheduler.cache.free == case.blocks - 1


def _check_blocks(engine: Engine) -> None:
    cache: KVCache = engine.scheduler.cache
    running = list(engine.scheduler.running.values())
    if isinstance(cache, CountingCache):
        assert sum(seq.held for seq in running) + cache.free == cache.total
        return
    assert isinstance(cache, PrefixCache)
    held = {block for seq in running for block in seq.blocks}
    assert len(held) + cache.free == cache.total
    assert all(len(set(seq.blocks)) == len(seq.blocks) for seq in running)
