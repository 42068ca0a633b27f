"""The schedulers of transformers: their recorded decisions, and their rules one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from servesim.errors import UnsupportedError
from servesim.graph.kv_layout import KvGroup
from servesim.graph.opgraph import CacheGroup
from servesim.runtime.config import EngineConfig
from servesim.runtime.deciding import build_scheduler
from servesim.runtime.encoder import LinearEncoder
from servesim.runtime.engine import Engine
from servesim.runtime.instance import Instance
from servesim.runtime.kv import build_cache
from servesim.runtime.modes import SchedulerModes
from servesim.runtime.plan import Plan
from servesim.runtime.records import RequestRecords
from servesim.runtime.request import RequestSpec
from servesim.runtime.roles import Role
from servesim.runtime.scheduler import Scheduler
from servesim.runtime.sequence import Sequence
from servesim.runtime.step import LinearStepModel
from servesim.validation.golden import replay
from servesim.validation.json_files import json_documents

FOLDER = Path(__file__).parents[2] / "validation" / "own" / "transformers"
OWN, OLDER = FOLDER / "scheduler.json.gz", FOLDER / "scheduler-5.17.json.gz"
FIFO = "transformers-fifo"


def scheduler(blocks: int, prompts: list[int], output: int = 100, **options: object) -> Scheduler:
    """Of blocks of four tokens, with requests that wait."""
    config = EngineConfig.from_options(
        {
            "scheduling_policy": FIFO,
            "block_size": 4,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 16,
            "enable_prefix_caching": False,
            "async_scheduling": False,
            **options,
        }
    )
    made = build_scheduler(config, build_cache(config, blocks + 1), SchedulerModes(listing=True))
    for i, prompt in enumerate(prompts):
        made.add(Sequence(RequestSpec(i, 0.0, prompt, output), i, 4))
    return made


def step(made: Scheduler) -> Plan:
    plan = made.schedule()
    made.update(plan)
    return plan


def rows(plan: Plan) -> list[tuple[int, int, int]]:
    return [(grant.seq.index, grant.computed, grant.new) for grant in plan.listing]


@pytest.mark.parametrize(("path", "steps"), [(OWN, 4000), (OLDER, 1500)])
def test_random_cases_of_transformers_are_decided_identically(path: Path, steps: int) -> None:
    result = replay(path)
    assert result.first_difference is None
    assert result.steps > steps


def test_the_recorded_cases_have_what_makes_decisions_hard() -> None:
    cases = json_documents(OWN)
    assert {case["case"]["policy"] for case in cases} == {FIFO, "transformers-prefill-first"}
    assert sum(any(step["preempted"] for step in case["steps"]) for case in cases) >= 40
    assert any(step["waiting"] > 5 for case in cases for step in case["steps"])


def test_release_5_17_gives_a_block_too_many_to_who_needs_blocks() -> None:
    made = scheduler(50, [4, 7], scheduling_policy="transformers-fifo-5.17")
    assert step(made).free_blocks == 50 - 2 - 3
    assert [step(made).free_blocks for _ in range(5)] == [45] * 4 + [44]


def test_decodes_come_before_the_rest_of_a_prompt() -> None:
    made = scheduler(50, [2, 20])
    assert rows(step(made)) == [(0, 0, 2), (1, 0, 14)]
    assert rows(step(made)) == [(0, 2, 1), (1, 14, 6)]
    assert rows(step(made)) == [(0, 3, 1), (1, 20, 1)]


def test_prefill_first_serves_the_rest_of_a_prompt_before_decodes() -> None:
    made = scheduler(50, [2, 20], scheduling_policy="transformers-prefill-first")
    step(made)
    assert rows(step(made)) == [(1, 14, 6), (0, 2, 1)]


def test_who_finds_no_blocks_is_overtaken() -> None:
    made = scheduler(4, [8, 16, 4], max_num_batched_tokens=32)
    assert rows(step(made)) == [(0, 0, 8), (2, 0, 4)]


def test_beyond_the_margin_prefills_wait_for_decodes() -> None:
    made = scheduler(10, [16, 15, 4])
    step(made)
    assert rows(step(made)) == [(0, 16, 1), (1, 0, 15)]  # one of ten blocks is left
    assert rows(step(made)) == [(0, 17, 1), (1, 15, 1)]


def test_the_starved_one_admitted_last_waits_again_and_nobody_is_admitted() -> None:
    made = scheduler(2, [4, 4, 1], output=4)
    assert rows(step(made)) == [(0, 0, 4), (1, 0, 4)]
    plan = step(made)  # no block is free for either: the second gives way to the first
    assert [seq.index for seq in plan.preempted] == [1]
    assert rows(plan) == [(0, 4, 1)]
    assert rows(step(made)) == [(0, 5, 1)]
    assert rows(step(made)) == [(0, 6, 1)]  # its last: the others may come, the third first
    assert rows(step(made)) == [(2, 0, 1)]
    assert rows(step(made)) == [(2, 1, 1)]


def test_when_the_last_one_running_is_cancelled_others_are_admitted() -> None:
    made = scheduler(2, [4, 4, 1], output=4)
    step(made)
    plan = step(made)
    (first,) = made.running.values()
    assert [seq.index for seq in plan.preempted] == [1]
    made.cancel(first)
    assert rows(step(made)) == [(2, 0, 1)]


def test_as_long_as_one_runs_a_cancelled_one_opens_nothing() -> None:
    made = scheduler(3, [1, 1, 4, 1], output=9)
    step(made)
    plan = step(made)  # the third needs a second block
    assert [seq.index for seq in plan.preempted] == [2]
    made.cancel(next(iter(made.running.values())))
    assert rows(step(made)) == [(1, 2, 1)]
    made.cancel(next(iter(made.running.values())))
    assert rows(step(made)) == [(3, 0, 1), (2, 0, 5)]


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE, Role.ENCODE])
def test_roles_are_refused(role: Role) -> None:
    config = scheduler(10, []).config
    with pytest.raises(UnsupportedError, match=f"role {role.value}: not modelled with .*{FIFO}"):
        build_scheduler(config, build_cache(config, 11), role=role)


def test_images_are_refused() -> None:
    config, encoder = scheduler(10, []).config, LinearEncoder(1.0)
    engine = Engine(Instance(config, LinearStepModel(1.0), 11, encoder=encoder), RequestRecords())
    assert engine.refusal(RequestSpec(0, 0.0, 9, 2)) is None
    reason = engine.refusal(RequestSpec(0, 0.0, 9, 2, images=(4,)))
    assert reason == f"it has images; scheduling_policy {FIFO} is modelled without"


@pytest.mark.parametrize(("tokens", "blocks"), [(14, 4), (15, 5), (16, 5)])
def test_release_5_17_refuses_what_would_want_a_block_more_than_there_is(
    tokens: int, blocks: int
) -> None:
    config = scheduler(10, [], scheduling_policy="transformers-fifo-5.17").config
    prompt, model = RequestSpec(0, 0.0, tokens, 1), LinearStepModel(1.0)
    for there in (blocks - 1, blocks):
        engine = Engine(Instance(config, model, there + 1), RequestRecords())
        assert (engine.refusal(prompt) is None) == (there == blocks)
    made = scheduler(blocks, [tokens], output=1, scheduling_policy="transformers-fifo-5.17")
    assert rows(step(made)) == [(0, 0, tokens)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("async_scheduling", True),
        ("enable_prefix_caching", True),
        ("enable_lora", True),
        ("long_prefill_token_threshold", 8),
        ("pipeline_parallel_size", 2),
        ("speculative_config", {"method": "ngram", "num_speculative_tokens": 2}),
    ],
)
def test_what_it_does_not_know_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UnsupportedError, match=f"{name} = .*not modelled with .*{FIFO}"):
        scheduler(10, [], **{name: value})


def test_windows_are_refused() -> None:
    config = scheduler(10, []).config
    cache = build_cache(config, 11, [KvGroup(CacheGroup("window", (0,), 1.0, 8), 4, 1)])
    with pytest.raises(UnsupportedError, match="layers that keep every token"):
        build_scheduler(config, cache)
