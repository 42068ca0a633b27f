"""Sessions: who waits for whom, and what contexts they share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servesim.errors import InputError
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance
from servesim.runtime.request import RequestSpec
from servesim.runtime.sessions import Session, SessionSource, Turn
from servesim.runtime.step import LinearStepModel
from servesim.runtime.workloads import WORKLOADS, Workload


def answered(source: SessionSource, seconds: float) -> list[RequestSpec]:
    """All requests of a source, each answered ``seconds`` after it comes."""
    given: list[RequestSpec] = []
    under_way: list[tuple[float, RequestSpec]] = []
    while source.next_s() is not None or under_way:
        arrival = source.next_s()
        if under_way and (arrival is None or under_way[0][0] <= arrival):
            now, spec = under_way.pop(0)
            source.finished(spec, now)
        else:
            given.append(spec := source.take())
            under_way.append((spec.arrival_s + seconds, spec))
    assert len(given) == source.total
    return given


def test_a_turn_comes_after_the_answer_and_its_tool() -> None:
    turns = (Turn(20, 12), Turn(5, 3, 0, (0,), delay_s=1.5), Turn(4, 4, 1, (1,), delay_s=0.5))
    first, second, third = answered(SessionSource([Session(2.0, turns)]), seconds=10.0)
    assert [r.arrival_s for r in (first, second, third)] == [2.0, 13.5, 24.0]
    assert [r.prompt_tokens for r in (first, second, third)] == [20, 37, 44]
    # 32 tokens are two whole blocks, the second with the first answer in it; then 40 tokens.
    assert second.prefix_block_ids == first.prefix_block_ids
    assert third.prefix_block_ids[:2] == first.prefix_block_ids
    assert len(third.prefix_block_ids) == 3


def test_a_block_that_a_context_only_began_is_not_shared() -> None:
    turns = (Turn(20, 1), Turn(50, 3, 0, (0,)))
    first, second = answered(SessionSource([Session(0.0, turns)]), 1.0)
    assert len(first.prefix_block_ids) == 1
    assert second.prefix_block_ids[:1] == first.prefix_block_ids
    assert set(second.prefix_block_ids[1:]).isdisjoint(first.prefix_block_ids)


def test_fan_out_and_join() -> None:
    turns = (
        Turn(16, 16),
        Turn(8, 8, 0, (0,), delay_s=1.0),
        Turn(8, 8, 0, (0,), delay_s=4.0),
        Turn(20, 8, 0, (0, 1, 2), delay_s=0.5),
    )
    requests = answered(SessionSource([Session(0.0, turns)]), 10.0)
    assert [r.arrival_s for r in requests] == [0.0, 11.0, 14.0, 24.5]
    assert all(r.prefix_block_ids[:2] == requests[0].prefix_block_ids for r in requests)


def test_sessions_share_whole_blocks_of_their_system_prompt() -> None:
    sessions = [Session(float(i), (Turn(30, 5),), 40, system=i % 2) for i in range(4)]
    requests = answered(SessionSource(sessions), 1.0)
    assert [r.prompt_tokens for r in requests] == [70] * 4
    shared = [r.prefix_block_ids[:2] for r in requests]
    assert shared[0] == shared[2] != shared[1] == shared[3]
    own = [set(r.prefix_block_ids[2:]) for r in requests]
    assert len(set().union(*own)) == sum(map(len, own))


def test_a_closed_loop_starts_a_session_when_one_ends() -> None:
    sessions = [Session(99.0, (Turn(5, 5), Turn(5, 5, 0, (0,)))) for _ in range(5)]
    requests = answered(SessionSource(sessions, concurrency=2), 1.0)
    assert [r.arrival_s for r in requests] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Turn(0, 1), "new_tokens must be at least 1, not 0"),
        (lambda: Turn(1, 1, delay_s=-1.0), "delay_s must be a time from 0 on, not -1.0"),
        (lambda: Turn(1, 1, continues=0), "must come after its answer"),
        (lambda: Session(0.0, ()), "at least one turn"),
        (lambda: Session(0.0, (Turn(1, 1, 0, (0,)),)), "turn 0 cannot wait for turn 0"),
        (lambda: Session(-1.0, (Turn(1, 1),)), "arrival_s"),
        (lambda: Session(0.0, (Turn(1, 1),), system=-1), "system must be a number"),
    ],
)
def test_sessions_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_file_of_sessions(tmp_path: Path) -> None:
    path = tmp_path / "sessions.jsonl"
    turns = [
        {"new_tokens": 100, "output_tokens": 10},
        {"new_tokens": 5, "output_tokens": 6, "delay_s": 2},
        {"new_tokens": 7, "output_tokens": 8, "continues": None, "after": [0]},
    ]
    path.write_text(json.dumps({"arrival_s": 1, "system_tokens": 32, "turns": turns}))
    requests = answered(WORKLOADS.build("sessions", {"path": path}).source(), 1.0)  # type: ignore[arg-type]
    by_id = sorted(requests, key=lambda r: r.id)
    assert [(r.arrival_s, r.prompt_tokens) for r in by_id] == [(1.0, 132), (4.0, 147), (2.0, 39)]
    for wrong, message in (
        ({**turns[0], "output": 1}, "unknown field of turn 0: 'output'"),
        ({**turns[0], "after": [3]}, "turn 0 cannot wait for turn 3"),
        ({"new_tokens": 3}, "output_tokens is missing"),
        (3, "turn 0 must be an object"),
    ):
        path.write_text("\n" + json.dumps({"arrival_s": 1, "turns": [wrong]}))
        with pytest.raises(InputError, match=message) as caught:
            WORKLOADS.build("sessions", {"path": path}).source()
        assert "sessions.jsonl:2: " in str(caught.value)


def test_agents_are_repeatable_and_grow() -> None:
    options = {"num_sessions": 20, "turns": 4, "fan_out": 3, "sub_turns": "uniform:low=1,high=3"}
    requests = answered(WORKLOADS.build("agentic", options).source(), 0.5)  # type: ignore[arg-type]
    assert requests == answered(WORKLOADS.build("agentic", options).source(), 0.5)  # type: ignore[arg-type]
    other = answered(WORKLOADS.build("agentic", {**options, "seed": 1}).source(), 0.5)  # type: ignore[arg-type]
    assert requests != other
    sessions = WORKLOADS.build("agentic", options).sessions()  # type: ignore[attr-defined]
    joins = [next(t for t in s.turns if len(t.after) == 4) for s in sessions]
    assert all(turn.new_tokens == 256 + 3 * 128 for turn in joins)


CHAT = [
    {"from": "human", "value": "x" * 40},
    {"from": "gpt", "value": "y" * 8},
    {"from": "human", "value": "z" * 4},
    {"from": "gpt", "value": "w" * 400},
    {"from": "human", "value": "unanswered"},
]


def test_conversations_become_sessions(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"id": "a", "conversations": CHAT}, {"conversations": CHAT[1:]}]))
    sessions = WORKLOADS.build("sharegpt", {"path": path}).sessions()  # type: ignore[attr-defined]
    lengths = [[(t.new_tokens, t.output_tokens) for t in s.turns] for s in sessions]
    assert lengths == [[(10, 2), (1, 100)], [(1, 100)]]
    path.write_text(json.dumps([{"conversations": [{"from": "humann", "value": ""}]}]))
    with pytest.raises(InputError, match=r"conversation 0: unknown speaker .*'human'"):
        WORKLOADS.build("sharegpt", {"path": path}).source()
    path.write_text('[\n{"conversations": [')
    with pytest.raises(InputError, match=r"chats.json:2: not JSON"):
        WORKLOADS.build("sharegpt", {"path": path}).source()


def test_an_engine_finds_the_context_of_the_turns_before() -> None:
    workload: Workload = WORKLOADS.build(
        "agentic",
        {"num_sessions": 3, "turns": 3, "prompt_tokens": 160, "new_tokens": 32, "rate": 0.01},
    )
    config = EngineConfig(async_scheduling=False)
    records = simulate(workload, [Instance(config, LinearStepModel(1e-3), 1000)])
    cached = records.requests.column("cached_tokens").tolist()
    # 160 + 128 tokens, of which the last has no KV: 17 of 18 blocks; then 32 + 128 more.
    assert cached == [0, 272, 432] * 3
