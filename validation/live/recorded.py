"""A recorded run of a live engine: its requests, its steps, and what it was run with."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.validation.json_files import read_object
from servesim.validation.live.pace import LIMITS

#: Version of the file format.
FORMAT = 1
#: Tokens that no request has more of.
_MOST_TOKENS = 10**9
#: Tokens of the blocks in which it is noted what prompts share.
SHARED_BLOCK = 16
_COLUMNS = (
    "arrival_s",
    "queued_s",
    "scheduled_s",
    "first_token_s",
    "finished_s",
    "prompt_tokens",
    "output_tokens",
)
#: Name of the device file beside the recordings.
DEVICE = "device.toml"


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """A request of a live run; times in seconds since the start of the run.

    Attributes:
        arrival_s: when the client handed it to the engine.
        queued_s: when the engine core took it from its queue, between two steps.
        scheduled_s: start of the step that first computed any of it.
        first_token_s, finished_s: end of the steps that made its first and its last token.
        shared: identities of the prompt's blocks of ``SHARED_BLOCK`` tokens that others have, too.
    """

    id: int
    arrival_s: float
    queued_s: float
    scheduled_s: float
    first_token_s: float
    finished_s: float
    prompt_tokens: int
    output_tokens: int
    shared: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveStep:
    """A step of a live run.

    Attributes:
        start_s, end_s: when scheduling began, and when its tokens were added to the requests.
        model_s: of that, what the worker took to run the model and to sample.
        scheduled: (request, tokens computed before, tokens of this step), in the engine's order.
        preempted: requests that lost their blocks.
        free_blocks: of the KV cache, once the step was scheduled.
    """

    start_s: float
    end_s: float
    model_s: float
    scheduled: tuple[tuple[int, int, int], ...]
    preempted: tuple[int, ...]
    free_blocks: int

    @property
    def seconds(self) -> float:
        """From scheduling to the tokens' arrival in the scheduler."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class LiveRun:
    """One run of one model under one load, as recorded.

    Attributes:
        model: name of the architecture.
        load: name of the load.
        repeat: which of several equal runs, from 1.
        engine: options by vLLM's names; ``num_gpu_blocks_override`` are the blocks it reported.
        about: date, versions, machine and command of the measurement.
        pace: seconds of ``pace.LIMITS`` just before the run; empty if they were not noted.
        experts: tokens that went to each expert of each layer that has some; empty if they were
            not counted.
    """

    model: str
    load: str
    repeat: int
    engine: Mapping[str, Any]
    requests: tuple[LiveRequest, ...]
    steps: tuple[LiveStep, ...]
    about: Mapping[str, Any]
    pace: Mapping[str, float] = field(default_factory=dict)
    experts: tuple[tuple[int, ...], ...] = ()


def load(path: Path) -> LiveRun:
    """The run recorded in ``path``.

    Raises:
        InputError: the file is not a recorded run of a known format.
    """
    data = read_object(path)
    if data.get("format") != FORMAT:
        raise InputError(f"{path}: not a recorded run of format {FORMAT}")
    return from_json(data, str(path))


def from_json(data: Mapping[str, Any], name: str) -> LiveRun:
    """The run in ``data``; ``name`` is what errors call it.

    Raises:
        InputError: a column is missing, columns differ in length, or requests and steps do not
            fit each other.
    """
    known = {"format", "model", "load", "repeat", "engine", "requests", "steps", "pace", "experts"}
    try:
        requests, steps = data["requests"], data["steps"]
        run = LiveRun(
            model=str(data["model"]),
            load=str(data["load"]),
            repeat=int(data["repeat"]),
            engine=dict(data["engine"]),
            requests=tuple(
                _request(i, row, shared)
                for i, (row, shared) in enumerate(
                    zip(_rows(requests, _COLUMNS), _shared(requests), strict=True)
                )
            ),
            steps=tuple(_step(*row) for row in _rows(steps, LiveStep.__slots__)),
            about={key: value for key, value in data.items() if key not in known},
            pace=_pace(data.get("pace")),
            experts=tuple(tuple(map(int, layer)) for layer in data.get("experts", ())),
        )
        wrong = _misfit(run)
    except KeyError as error:
        raise InputError(f"{name}: no {error.args[0]!r}") from error
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error
    if wrong is not None:
        raise InputError(f"{name}: {wrong}")
    return run


def save(run: Mapping[str, Any], path: Path) -> None:
    """Write ``run``, in the form that ``load`` reads, as the same bytes every time."""
    text = json.dumps(dict(run), separators=(",", ":"))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    part.replace(path)


def recordings(folder: Path) -> list[Path]:
    """The recorded runs under ``folder``, by architecture, load and repeat."""
    return sorted(folder.glob("*/*/*.json.gz"))


def _rows(table: Mapping[str, list[Any]], columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name] for name in columns), strict=True))


def _misfit(run: LiveRun) -> str | None:
    """What cannot be of a run in which every request finished."""
    times = [s for step in run.steps for s in (step.start_s, step.end_s, step.model_s)]
    for r in run.requests:
        times += (r.arrival_s, r.queued_s, r.scheduled_s, r.first_token_s, r.finished_s)
    if not all(map(math.isfinite, times)):
        return "a time is not finite"
    starts = [step.start_s for step in run.steps]
    if starts != sorted(starts):
        return "steps are not in order of their start"
    last = {request: step.start_s for step in run.steps for request, _, _ in step.scheduled}
    if sorted(last) != list(range(len(run.requests))) or not last:
        return f"steps schedule {len(last)} of {len(run.requests)} requests"
    for request in run.requests:
        if request.queued_s > last[request.id]:
            return f"request {request.id} is queued after its last step"
    return None


def _pace(given: Mapping[str, float] | None) -> dict[str, float]:
    if given is None:
        return {}
    pace = {limit: float(given[limit]) for limit in LIMITS}
    if not all(0 < seconds < math.inf for seconds in pace.values()):
        raise ValueError(f"pace {pace} is not of positive times")
    return pace


def _step(
    start: float,
    end: float,
    model: float,
    scheduled: list[list[int]],
    preempted: list[int],
    free: int,
) -> LiveStep:
    rows = tuple((int(a), int(b), int(c)) for a, b, c in scheduled)
    return LiveStep(float(start), float(end), float(model), rows, tuple(preempted), int(free))


def _shared(requests: Mapping[str, list[Any]]) -> list[list[int]]:
    """What each request shares; nothing where it is not recorded."""
    return requests.get("shared", [[] for _ in requests["arrival_s"]])


def _request(number: int, row: tuple[float, ...], shared: list[int]) -> LiveRequest:
    """Of five times, and the tokens of the prompt and of the output."""
    arrival, queued, scheduled, first, finished = map(float, row[:5])
    prompt, output = map(int, row[5:])
    if not (1 <= prompt <= _MOST_TOKENS and 1 <= output <= _MOST_TOKENS):
        raise ValueError(f"request {number} has {prompt} prompt and {output} output tokens")
    if len(shared) * SHARED_BLOCK > prompt or any(int(one) < 0 for one in shared):
        raise ValueError(f"request {number} cannot share {shared} in {prompt} tokens")
    ids = tuple(int(one) for one in shared)
    return LiveRequest(number, arrival, queued, scheduled, first, finished, prompt, output, ids)
