"""Recorded moments and step lengths, replayed: exact, unless something was changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from live_recordings import ENGINE, MICRO, recording, served, write_device

from servesim.errors import InputError, UnsupportedError
from servesim.scenario.build import Served
from servesim.validation.live.decisions import replay_decisions
from servesim.validation.live.recorded import from_json
from servesim.validation.live.replay import replay_times

Recorded = dict[str, Any]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_device(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def one(device: str) -> Served:
    return served(device)


@pytest.fixture(scope="module")
def recorded(one: Served) -> Recorded:
    run = recording(one)
    assert any(run["steps"]["preempted"])  # or the replay would prove less than it should
    return run


def test_every_decision_and_time_of_our_own_recording_is_found_again(
    one: Served, recorded: Recorded
) -> None:
    run = from_json(recorded, "own")
    decisions = replay_decisions(run, one)
    assert decisions.first_difference is None
    assert decisions.identical == decisions.steps == len(run.steps) > 150
    replay = replay_times(run, one)
    assert replay.within == replay.requests == len(run.requests)
    assert replay.worst_s < 3.5 * MICRO  # what the recorder leaves between steps


def test_steps_scheduled_while_another_runs_are_decided_the_same(device: str) -> None:
    engine = {**ENGINE, "async_scheduling": True}
    ahead = served(device, engine)
    run = from_json(recording(ahead, engine), "own")
    starts, ends = zip(*((s.start_s, s.end_s) for s in run.steps), strict=True)
    assert any(start < end for start, end in zip(starts[1:], ends, strict=False))
    assert replay_decisions(run, ahead).first_difference is None
    with pytest.raises(UnsupportedError, match="async_scheduling"):
        replay_times(run, ahead)


def _swap(steps: Recorded) -> None:
    row = next(row for row in steps["scheduled"] if len(row) > 1)
    row[0], row[1] = row[1], row[0]


def _shorten(steps: Recorded) -> None:
    row = next(row for row in steps["scheduled"] if row[0][2] > 1)
    row[0][2] -= 1


def _forget_preemption(steps: Recorded) -> None:
    steps["preempted"][next(i for i, row in enumerate(steps["preempted"]) if row)] = []


def _free(steps: Recorded) -> None:
    steps["free_blocks"][50] += 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_swap, "scheduled"),
        (_shorten, "scheduled"),
        (_forget_preemption, "preempted"),
        (_free, "free_blocks"),
    ],
)
def test_any_difference_is_found_and_named(
    one: Served, recorded: Recorded, change: Callable[[Recorded], None], field: str
) -> None:
    changed = copy.deepcopy(recorded)
    change(changed["steps"])
    decisions = replay_decisions(from_json(changed, "changed"), one)
    assert decisions.identical < decisions.steps
    assert decisions.first_difference is not None
    assert decisions.first_difference.startswith(f"step {decisions.identical}, {field}: recorded")


def test_a_recording_that_ends_early_is_seen(one: Served, recorded: Recorded) -> None:
    cut = copy.deepcopy(recorded)
    cut["steps"] = {name: column[:-1] for name, column in cut["steps"].items()}
    difference = replay_decisions(from_json(cut, "cut"), one).first_difference
    assert difference == "the recording ends, requests are left"


@pytest.mark.parametrize(
    ("table", "name", "value", "says"),
    [
        ("steps", "scheduled", [[99, 0, 1]], "schedule 10 of 9 requests"),
        ("steps", "start_s", 1e9, "not in order"),
        ("requests", "queued_s", 1e9, "request 3 is queued after its last step"),
        ("requests", "queued_s", None, "own: "),
    ],
)
def test_what_cannot_have_been_recorded_is_refused(
    recorded: Recorded, table: str, name: str, value: object, says: str
) -> None:
    wrong = copy.deepcopy(recorded)
    wrong[table][name][3] = value
    with pytest.raises(InputError, match=says):
        from_json(wrong, "own")


def test_a_request_queued_after_its_step_makes_a_difference(
    one: Served, recorded: Recorded
) -> None:
    late = copy.deepcopy(recorded)
    late["requests"]["queued_s"][1] += 0.05
    assert replay_decisions(from_json(late, "late"), one).first_difference is not None


def test_a_token_that_came_later_than_its_step_is_seen(one: Served, recorded: Recorded) -> None:
    late = copy.deepcopy(recorded)
    at = late["steps"]["end_s"].index(late["requests"]["first_token_s"][3])
    late["requests"]["first_token_s"][3] = late["steps"]["end_s"][at + 3]
    replay = replay_times(from_json(late, "late"), one)
    assert (replay.requests - replay.within, replay.worst_steps > 1) == (1, True)


def test_options_that_the_engine_chose_by_itself_have_our_defaults(device: str) -> None:
    chosen = served(device, {**ENGINE, "long_prefill_token_threshold": None})
    assert chosen.config.long_prefill_token_threshold == 0
