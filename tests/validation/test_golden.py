"""vLLM's recorded decisions, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servesim.errors import InputError
from servesim.validation.golden import replay
from servesim.validation.json_files import json_documents

RECORDINGS = Path(__file__).parents[3] / "shared" / "vllm-golden"
FILES = sorted(RECORDINGS.glob("*.json"))
OWN = sorted((Path(__file__).parents[2] / "validation" / "own" / "scheduler").glob("*.json.gz"))
needs_recordings = pytest.mark.skipif(not FILES, reason=f"no recordings in {RECORDINGS}")


@needs_recordings
@pytest.mark.parametrize("visit_all", [False, True], ids=["counted", "visited"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recorded_step_is_decided_identically(path: Path, visit_all: bool) -> None:
    result = replay(path, visit_all=visit_all)
    assert result.first_difference is None
    assert result.identical
    assert result.steps == len(json.loads(path.read_text())["steps"])


@pytest.mark.parametrize("visit_all", [False, True], ids=["counted", "visited"])
@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name.partition(".")[0])
def test_random_cases_of_vllm_are_decided_identically(path: Path, visit_all: bool) -> None:
    result = replay(path, visit_all=visit_all)
    assert result.first_difference is None
    assert result.steps > 500


def test_our_own_recordings_have_what_makes_decisions_hard() -> None:
    cases = [case for path in OWN for case in json_documents(path)]
    hybrids = [case["case"] for case in cases if case["case"]["family"] == "hybrid"]
    assert {case["enable_prefix_caching"] for case in hybrids} == {False, True}
    assert {g["checkpoints"] for case in hybrids for g in case["groups"][1:]} == {False, True}
    assert {case["case"]["async_scheduling"] for case in cases} == {False, True}
    assert {case["case"]["prefix_cache_retention_interval"] for case in cases} >= {0, None}
    assert sum(any(step["preempted"] for step in case["steps"]) for case in cases) > 20
    assert max(len(case["case"]["groups"]) for case in cases) == 4


def test_speculation_stops_and_aborts_are_among_them() -> None:
    cases = {path.name.partition(".")[0]: json_documents(path) for path in OWN}
    drafted = [one for name in ("ngram", "eagle", "draft-model") for one in cases[name]]
    methods = {one["case"]["speculative"]["method"] for one in drafted}
    assert methods == {"ngram", "ngram_gpu", "eagle", "mtp", "draft_model"}
    drafts = {one["case"]["speculative"]["num_speculative_tokens"] for one in drafted}
    assert drafts == {1, 2, 3, 4, 5}
    for found in (drafted, cases["stops"], cases["aborts"]):
        assert {one["case"]["async_scheduling"] for one in found} == {False, True}
        assert sum(bool(step["preempted"]) for one in found for step in one["steps"]) > 20
    finished = {name: _finished(found) for name, found in cases.items()}
    assert 0.2 < finished["aborts"] < 0.8
    assert all(share == 1 for name, share in finished.items() if name != "aborts")


def _finished(recordings: list[dict[str, Any]]) -> float:
    """Share of the requests that came to their end."""
    done = sum(len(step["finished"]) for one in recordings for step in one["steps"])
    return done / sum(len(one["requests"]) for one in recordings)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("aborts", "cancel_s", None),
        ("stops", "max_tokens", None),
        ("eagle", "right", [0]),
        ("ngram", "drafts", [0]),
    ],
)
def test_what_the_new_families_are_about_is_compared(
    tmp_path: Path, family: str, key: str, value: object
) -> None:
    """Without it, decisions differ from those recorded."""
    recordings = json_documents(next(path for path in OWN if path.name.startswith(family)))
    changed = json.loads(json.dumps(recordings))
    for one in changed:
        for asked in one["requests"]:
            asked[key] = value
    path = tmp_path / "changed.jsonl"
    path.write_text("\n".join(map(json.dumps, changed)))
    assert not replay(path).identical


def _recording() -> dict[str, object]:
    """One request of 20 prompt and 2 output tokens on 7 usable blocks, by hand."""
    case = {
        "max_model_len": 100,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "num_gpu_blocks": 8,
        "enable_prefix_caching": True,
        "step_base_s": 1.0,
        "step_per_token_s": 0.0,
        "step_per_seq_s": 0.0,
    }
    request = {"id": 5, "arrival_s": 0.0, "prompt_token_ids": list(range(20)), "output_tokens": 2}
    common = {"preempted": [], "free_blocks_after_schedule": 5, "waiting": 0}
    steps = [
        {"scheduled": [[5, 0, 20]], "finished": [], **common},
        {"scheduled": [[5, 20, 1]], "finished": [5], **common},
    ]
    return {"case": case, "block_size": 16, "requests": [request], "steps": steps}


def test_a_recording_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "hand.json"
    path.write_text(json.dumps(_recording()))
    result = replay(path)
    assert (result.file, result.steps, result.identical) == ("hand.json", 2, True)


@pytest.mark.parametrize(
    ("step", "name", "value"),
    [
        (0, "scheduled", [[5, 0, 19]]),
        (1, "finished", []),
        (0, "preempted", [5]),
        (1, "free_blocks_after_schedule", 6),
        (0, "waiting", 1),
    ],
)
def test_any_difference_is_found_and_named(
    tmp_path: Path, step: int, name: str, value: object
) -> None:
    recording = _recording()
    recording["steps"][step][name] = value  # type: ignore[index]
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(recording))
    result = replay(path)
    assert not result.identical
    assert result.first_difference is not None
    assert result.first_difference.startswith(f"step {step}, {name}:")


@pytest.mark.parametrize("steps", [1, 3])
def test_missing_and_surplus_steps_are_differences(tmp_path: Path, steps: int) -> None:
    recording = _recording()
    recording["steps"] = (recording["steps"] * 2)[:steps]  # type: ignore[operator]
    path = tmp_path / "length.json"
    path.write_text(json.dumps(recording))
    assert not replay(path).identical


def test_of_several_recordings_the_one_that_differs_is_named(tmp_path: Path) -> None:
    changed = _recording()
    changed["steps"][1]["waiting"] = 1  # type: ignore[index]
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps(_recording()) + "\n" + json.dumps(changed) + "\n")
    result = replay(path)
    assert (result.identical, result.steps) == (False, 4)
    assert result.first_difference == "recording 1, step 1, waiting: recorded 1, decided 0"


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"case": {}, "steps": []}'])
def test_what_is_no_recording_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.json"):
        replay(path)
