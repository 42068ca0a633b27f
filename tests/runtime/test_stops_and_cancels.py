"""Answers that a stop token ends, and requests that their clients give up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_runs import Given, everything, request, run

from servesim.errors import InputError, UnsupportedError
from servesim.hardware.link import Link
from servesim.hardware.topologies import build_topology
from servesim.runtime.cluster import Cluster, simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance
from servesim.runtime.records import Records, Status
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role
from servesim.runtime.routers.round_robin import RoundRobin
from servesim.runtime.step import LinearStepModel
from servesim.runtime.system import System
from servesim.runtime.workloads.jsonl import JsonLines

SECOND = LinearStepModel(base_s=1.0)


def steps(records: Records, name: str) -> list[float]:
    return list(records.instances[0].steps.column(name))


@pytest.mark.parametrize(
    ("ahead", "max_tokens", "decodes", "extra"),
    [
        (True, 10, [0, 1, 1, 1], [0, 0, 0, -1]),  # nobody knows that the third token is the last
        (True, 4, [0, 1, 1, 1], [0, 0, 0, -1]),
        (True, 3, [0, 1, 1], [0, 0, 0]),
        (True, None, [0, 1, 1], [0, 0, 0]),
        (False, 10, [0, 1, 1], [0, 0, 0]),
    ],
)
def test_a_stop_token_comes_a_step_too_late(
    ahead: bool, max_tokens: int | None, decodes: list[int], extra: list[int]
) -> None:
    asked = [request(0, 0, 4, 3, max_tokens=max_tokens)]
    records = run(asked, model=SECOND, async_scheduling=ahead)
    assert steps(records, "decodes") == decodes
    assert steps(records, "extra_tokens") == extra
    assert records.requests.finished_s[0] == 3
    gaps = records.instances[0].steps.gaps()
    assert (list(gaps.values), list(gaps.weights)) == ([1], [2])


def test_at_the_longest_context_a_stop_needs_no_word() -> None:
    asked = [request(0, 0, 4, 3, max_tokens=10)]
    records = run(asked, model=SECOND, async_scheduling=True, max_model_len=7)
    assert steps(records, "decodes") == [0, 1, 1]


def test_the_surplus_token_may_need_a_block() -> None:
    # 16 tokens computed for the answer, 17 with the surplus one: two blocks, and a third of none.
    asked = [request(0, 0, 15, 2, max_tokens=9)]
    records = run(asked, model=SECOND, async_scheduling=True, blocks=3)
    assert steps(records, "kv_blocks") == [1, 1, 2]
    refused = run(asked, model=SECOND, async_scheduling=True, blocks=2)
    assert refused.requests.status[0] == Status.REJECTED
    fits = run(asked, model=SECOND, async_scheduling=False, blocks=2)
    assert fits.requests.status[0] == Status.FINISHED


def test_drafts_run_ahead_of_what_is_known() -> None:
    spec = {"method": "eagle", "num_speculative_tokens": 3, "acceptance_rate": 1.0}
    one = [request(0, 0, 4, 9)]
    ahead = run(one, model=SECOND, async_scheduling=True, speculative_config=spec)
    # When the fourth step is decided, five of nine tokens are known and one more is sure.
    assert steps(ahead, "extra_tokens") == [0, 3, 3, -1]
    assert ahead.requests.finished_s[0] == 3
    waiting = run(one, model=SECOND, async_scheduling=False, speculative_config=spec)
    assert steps(waiting, "extra_tokens") == [0, 3, 3]


def test_drafts_of_the_host_are_waited_for() -> None:
    spec = {"method": "ngram", "num_speculative_tokens": 3, "acceptance_rate": 1.0}
    records = run([request(0, 0, 4, 9)], async_scheduling=True, speculative_config=spec)
    assert steps(records, "extra_tokens") == [0, 3, 3]


def test_given_up_while_it_waits() -> None:
    asked = [request(0, 0, 4, 5), request(1, 0, 4, 5, cancel_after_s=2.5)]
    records = run(asked, model=SECOND, max_num_seqs=1)
    rows = records.requests
    assert list(rows.status) == [Status.FINISHED, Status.CANCELLED]
    assert rows.reasons == {1: "its client gave up after 2.5 s"}
    assert rows.scheduled_s[1] != rows.scheduled_s[1]  # nan
    assert rows.finished_s[0] == 5


def test_given_up_while_it_runs_it_makes_room_when_the_step_ends() -> None:
    asked = [request(0, 0, 4, 50, cancel_after_s=2.5), request(1, 0, 4, 2)]
    records = run(asked, model=SECOND, max_num_seqs=1)
    rows = records.requests
    assert list(rows.status) == [Status.CANCELLED, Status.FINISHED]
    assert rows.first_token_s[0] == 1
    assert rows.scheduled_s[1] == 3
    # Scheduled ahead, its fourth step runs in vain.
    ahead = run(asked, model=SECOND, max_num_seqs=1, async_scheduling=True).requests
    assert ahead.scheduled_s[1] == 3
    assert ahead.first_token_s[1] == 5


def test_an_answer_in_time_is_an_answer() -> None:
    records = run([request(0, 0, 4, 3, cancel_after_s=3.5)], model=SECOND)
    assert records.requests.status[0] == Status.FINISHED
    late = run([request(0, 0, 4, 3, cancel_after_s=3.0)], model=SECOND)  # as the last token comes
    assert late.requests.status[0] == Status.CANCELLED


def test_all_clients_may_be_impatient() -> None:
    asked = [request(0, 0, 4, 9), request(1, 0, 4, 9, cancel_after_s=100)]
    engine = Instance(EngineConfig(max_num_seqs=8, max_num_batched_tokens=64), SECOND, 100)
    records = simulate(Given(asked), [engine], system=System(cancel_after_s=4))
    assert list(records.requests.status) == [Status.CANCELLED, Status.FINISHED]


def test_roles_and_giving_up_do_not_go_together() -> None:
    config = EngineConfig(max_num_seqs=8, max_num_batched_tokens=64)
    roles = (Role.PREFILL, Role.DECODE)
    pair = [Instance(config, SECOND, 100, role.value, role=role) for role in roles]
    system = System(
        build_topology("switch", ["prefill", "decode"], Link("any", 1e9, 0.0)), cancel_after_s=1
    )
    with pytest.raises(UnsupportedError, match=r"cancel_after_s: not modelled .* roles"):
        Cluster(Given([]), pair, RoundRobin(), system=system)
    patient = replace(system, cancel_after_s=None)
    with pytest.raises(UnsupportedError, match=r"cancel_after_s: not modelled .* roles"):
        simulate(Given([request(0, 0, 4, 9, cancel_after_s=1)]), pair, system=patient)


lengths = st.lists(
    st.tuples(
        st.integers(0, 20), st.integers(1, 90), st.integers(1, 30), st.sampled_from([0, 1, 40]),
        st.none() | st.floats(0, 60),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(lengths, st.integers(12, 40), st.booleans(), st.booleans(), st.sampled_from([0, 3]))
def test_counting_decides_as_visiting_and_all_are_accounted_for(
    given_: list[tuple[int, int, int, int, float | None]],
    blocks: int, caching: bool, ahead: bool, drafts: int,
) -> None:  # fmt: skip
    requests: list[RequestSpec] = [
        request(i, at, prompt, output, max_tokens=output + more, cancel_after_s=patience)
        for i, (at, prompt, output, more, patience) in enumerate(
            sorted(given_, key=lambda one: one[0])
        )
    ]
    spec = {"method": "eagle", "num_speculative_tokens": drafts, "acceptance_rate": 0.6}
    options = {
        "blocks": blocks, "enable_prefix_caching": caching, "async_scheduling": ahead,
        "speculative_config": spec if drafts else None,
    }  # fmt: skip
    records = run(requests, **options)  # type: ignore[arg-type]
    rows = records.requests
    assert Status.UNFINISHED not in rows.status
    assert Status.REJECTED not in rows.status
    for row, spec_ in enumerate(requests):
        if spec_.cancel_after_s is None:
            assert rows.status[row] == Status.FINISHED
        elif rows.status[row] == Status.FINISHED:
            assert rows.finished_s[row] < spec_.arrival_s + spec_.cancel_after_s
    if not drafts:  # with some, all sequences are visited in any case
        visited = run(requests, visit_all=True, **options)  # type: ignore[arg-type]
        assert everything(records) == everything(visited)


def test_a_trace_tells_both(tmp_path: Path) -> None:
    line = {"arrival_s": 0, "prompt_tokens": 4, "output_tokens": 3}
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps({**line, "max_tokens": 9, "cancel_after_s": 1.5}))
    spec = JsonLines(path=path).source().take()
    assert (spec.max_tokens, spec.cancel_after_s) == (9, 1.5)
    path.write_text(json.dumps({**line, "max_tokens": 2}))
    with pytest.raises(InputError, match="max_tokens must be at least output_tokens, 3, not 2"):
        JsonLines(path=path).source()
    with pytest.raises(InputError, match="cancel_after_s"):
        request(0, 0, 4, 3, cancel_after_s=-1.0)
