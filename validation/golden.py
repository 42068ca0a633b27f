"""Replaying recordings of vLLM's scheduler, to see that servesim decides the same in every step.

A recording holds the engine options, the requests with their token ids, and what vLLM decided step
by step under a virtual clock: a step of T tokens over S sequences takes
``step_base_s + step_per_token_s * T + step_per_seq_s * S``. With asynchronous scheduling the next
step is decided while one is under way. ``validation/live/scheduler_cases.py`` makes more of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.graph.kv_layout import KvGroup
from servesim.graph.opgraph import CacheGroup
from servesim.runtime.cancelling import deadline
from servesim.runtime.config import EngineConfig
from servesim.runtime.deciding import build_scheduler
from servesim.runtime.kv import build_cache
from servesim.runtime.kv.hashing import PrefixHasher
from servesim.runtime.modes import SchedulerModes
from servesim.runtime.plan import Plan
from servesim.runtime.request import RequestSpec
from servesim.runtime.scheduler import Scheduler
from servesim.runtime.sequence import Sequence
from servesim.validation.json_files import json_documents
from servesim.validation.live.scheduler_outputs import SAMPLED_TOKEN


class RecordedDrafts:
    """Drafts as a recording has them: by request, in turn over its tokens so far."""

    def __init__(self, requests: list[dict[str, Any]]) -> None:
        self._requests = {request["id"]: request for request in requests}

    def made(self, seq: Sequence, answered: int) -> int:
        """Tokens drafted for the next step of ``seq``."""
        made: list[int] = self._requests[seq.spec.id]["drafts"]
        return made[answered % len(made)]

    def right(self, seqs: Listed[Sequence], answered: Listed[int]) -> list[int]:
        """For each sequence, drafts before the first wrong one."""
        rights = [self._requests[seq.spec.id]["right"] for seq in seqs]
        return [right[n % len(right)] for right, n in zip(rights, answered, strict=True)]


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """How a replay compares with its recording.

    Attributes:
        steps: steps recorded, of the recordings that were replayed.
        identical: whether every one of them was decided the same.
        first_difference: the first step and field that differ, with both values.
    """

    file: str
    steps: int
    identical: bool
    first_difference: str | None


def replay(path: str | Path, *, visit_all: bool = False) -> GoldenResult:
    """Replay the recordings in ``path`` and compare every step up to the first that differs.

    Args:
        path: one as JSON, or one a line; compressed or not.
        visit_all: use the plain reference instead of counted decodes.

    Raises:
        InputError: the file cannot be read or is no recording.
    """
    path, steps = Path(path), 0
    recordings = json_documents(path)
    try:
        for number, recording in enumerate(recordings):
            expected = recording["steps"]
            decided = _decide(recording, visit_all=visit_all)
            difference = _first_difference(expected, decided)
            steps += len(expected)
            if difference is not None:
                where = f"recording {number}, " if len(recordings) > 1 else ""
                return GoldenResult(path.name, steps, False, where + difference)
    except KeyError as error:
        raise InputError(f"{path} is not a scheduler recording: it has no {error}") from error
    except TypeError as error:
        raise InputError(f"{path} is not a scheduler recording: {error}") from error
    return GoldenResult(path.name, steps, True, None)


def _decide(recording: Mapping[str, Any], *, visit_all: bool) -> Iterator[dict[str, Any]]:
    """What servesim decides, step by step, in the recording's own terms."""
    case = recording["case"]
    config = _config(case, recording["block_size"])
    cache = build_cache(config, case["num_gpu_blocks"], _groups(case))
    modes = SchedulerModes(visit_all=visit_all, listing=True)
    drafts = RecordedDrafts(recording["requests"]) if config.speculation is not None else None
    scheduler = build_scheduler(config, cache, modes, drafts=drafts)
    arrivals = _sequences(recording)[::-1]
    added: list[Sequence] = []
    under_way: deque[tuple[Plan, float, dict[str, Any]]] = deque()
    now = end = 0.0
    while arrivals or under_way or scheduler.busy:
        if not under_way and not scheduler.busy:
            now = max(now, arrivals[-1].spec.arrival_s)
        while arrivals and arrivals[-1].spec.arrival_s <= now:
            added.append(arrivals.pop())
            scheduler.add(added[-1])
        _cancel(scheduler, added, now)
        plan = scheduler.schedule()
        if plan.listing or plan.preempted:
            end = max(now, end) + _seconds(case, plan)
            under_way.append((plan, end, _step(plan)))
        elif not under_way:
            if scheduler.busy:
                return  # nobody will ever be served
            continue
        if len(under_way) > config.async_scheduling or not plan.listing:
            done, now, step = under_way.popleft()
            _cancel(scheduler, added, now)
            step["finished"] = [seq.spec.id for seq in scheduler.update(done)]
            yield step


def _seconds(case: Mapping[str, Any], plan: Plan) -> float:
    tokens = sum(grant.new for grant in plan.listing)
    of_sequences = case["step_per_seq_s"] * len(plan.listing)
    return float(case["step_base_s"] + case["step_per_token_s"] * tokens + of_sequences)


def _cancel(scheduler: Scheduler, added: list[Sequence], now: float) -> None:
    """Let go who is given up until ``now``; a client that is answered does not."""
    for seq in added:
        if deadline(seq.spec) <= now:
            scheduler.cancel(seq)


def _step(plan: Plan) -> dict[str, Any]:
    return {
        "scheduled": [[grant.seq.spec.id, grant.computed, grant.new] for grant in plan.listing],
        "preempted": sorted(seq.spec.id for seq in plan.preempted),
        "free_blocks_after_schedule": plan.free_blocks,
        "waiting": plan.waiting,
    }


def _config(case: Mapping[str, Any], block_size: int) -> EngineConfig:
    return EngineConfig(
        max_num_seqs=case["max_num_seqs"],
        max_num_batched_tokens=case["max_num_batched_tokens"],
        max_model_len=case["max_model_len"],
        block_size=block_size,
        enable_prefix_caching=case["enable_prefix_caching"],
        speculative_config=_speculation(case.get("speculative")),
        long_prefill_token_threshold=case.get("long_prefill_token_threshold", 0),
        scheduling_policy=case.get("policy", "fcfs"),
        enable_lora="max_loras" in case,
        max_loras=case.get("max_loras", 1),
        async_scheduling=case.get("async_scheduling", False),
        scheduler_reserve_full_isl=case.get("scheduler_reserve_full_isl", True),
        prefix_cache_retention_interval=case.get("prefix_cache_retention_interval", 0),
    )


def _speculation(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if given is None or given["method"] != "draft_model":
        return given
    return {**given, "model": "any"}


def _groups(case: Mapping[str, Any]) -> list[KvGroup]:
    """Layer groups of a recording; none where all layers keep every token."""
    groups = []
    for group in case.get("groups", ()):
        kind, size = group["kind"], group["block_size"]
        if kind == "state" and not case["enable_prefix_caching"]:
            size = case["max_model_len"]
        cache = CacheGroup(kind, (0,), 0.0 if kind == "state" else 1.0, group.get("window"))
        groups.append(KvGroup(cache, size, 1, group.get("checkpoints", False)))
    return groups


def _sequences(recording: Mapping[str, Any]) -> list[Sequence]:
    """The requests in order of arrival, with the identities of all blocks they will fill."""
    block_size = recording["block_size"]
    hasher = PrefixHasher(block_size)
    sequences: list[Sequence] = []
    for request in sorted(recording["requests"], key=lambda request: request["arrival_s"]):
        prompt, output = request["prompt_token_ids"], request["output_tokens"]
        cancelled = request.get("cancel_s")
        spec = RequestSpec(
            id=request["id"],
            arrival_s=request["arrival_s"],
            prompt_tokens=len(prompt),
            output_tokens=output,
            prefix_block_ids=hasher.identities([*prompt, *[SAMPLED_TOKEN] * output]),
            prefix_block_size=block_size,
            priority=request.get("priority", 0),
            adapter=request.get("adapter"),
            max_tokens=request.get("max_tokens"),
            cancel_after_s=None if cancelled is None else cancelled - request["arrival_s"],
        )
        sequences.append(Sequence(spec, len(sequences), block_size))
    return sequences


def _first_difference(
    expected: list[dict[str, Any]], decided: Iterator[dict[str, Any]]
) -> str | None:
    number = -1
    for number, step in enumerate(decided):
        if number == len(expected):
            return f"step {number}: recorded nothing, decided {step}"
        for name, value in step.items():
            recorded = expected[number][name]
            if value != (sorted(recorded) if name == "preempted" else recorded):
                return f"step {number}, {name}: recorded {recorded}, decided {value}"
    if number + 1 < len(expected):
        return f"step {number + 1}: recorded {expected[number + 1]}, decided nothing"
    return None
