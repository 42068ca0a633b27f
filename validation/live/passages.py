"""What a server adds: the stamps of its clients beside those of its engine.

``vllm bench serve --save-detailed`` stamps when a request was sent and when its first token came;
a server started with ``--scheduler-cls vllm_recorder.RecordingScheduler`` stamps when its engine
took the request and when the step of its first token ended, on the same clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from servesim.errors import InputError
from servesim.runtime.frontend import FrontEnd
from servesim.validation.json_files import json_documents, read_object

#: Requests of different lengths that a slope needs.
_FEWEST = 8
#: An engine that has stood still this long did not keep a request waiting (seconds).
_IDLE_S = 2e-4


@dataclass(frozen=True, slots=True)
class Passage:
    """One request's way through the server.

    Attributes:
        prompt_tokens: of its prompt.
        request_s: from the client to the engine's inbox, without the step it had to wait for.
        response_s: from the end of the step of its first token to the client.
    """

    prompt_tokens: int
    request_s: float
    response_s: float


def passages(result: Path, record: Path) -> list[Passage]:
    """The requests of a ``vllm bench serve`` result, matched with the engine's record by order.

    A request that arrives during a step is taken when the step ends: only those that found the
    engine idle tell what the server took.

    Raises:
        InputError: a file cannot be read, or the record lacks requests of the result.
    """
    seen = read_object(result)
    try:
        starts, ttfts, lengths = seen["start_times"], seen["ttfts"], seen["input_lens"]
    except KeyError as error:
        raise InputError(f"{result}: no {error.args[0]}; give --save-detailed") from error
    lines = json_documents(record)
    queued = sorted((x["s"], x["id"]) for x in lines if x["kind"] == "queued")
    queued = [one for one in queued if min(starts) < one[0]][: len(starts)]
    if len(queued) < len(starts):
        raise InputError(f"{record}: {len(queued)} of the {len(starts)} requests of {result}")
    order = sorted(range(len(starts)), key=lambda i: starts[i])
    named = {name: i for i, (_, name) in zip(order, queued, strict=True)}
    steps = [line for line in lines if line["kind"] == "step"]
    busy = sorted((step["start"], step["end"]) for step in steps)
    first = _first_tokens(steps, {name: lengths[i] for name, i in named.items()})
    return [
        Passage(lengths[i], taken - starts[i], starts[i] + ttfts[i] - first[name])
        for (taken, name), i in zip(queued, order, strict=True)
        if not _waited(busy, taken)
    ]


def fit_front_end(found: Sequence[Passage]) -> FrontEnd:
    """The front end of which half the passages are slower (slope: Theil and Sen's median).

    Raises:
        InputError: too few passages, or all of prompts of one length.
    """
    tokens = np.array([one.prompt_tokens for one in found], dtype=float)
    request = np.array([one.request_s for one in found])
    if len(found) < _FEWEST or tokens.min() == tokens.max():
        raise InputError(f"a front end needs {_FEWEST} requests of different lengths")
    a, b = np.triu_indices(len(found), 1)
    apart = tokens[a] != tokens[b]
    slopes = (request[b] - request[a])[apart] / (tokens[b] - tokens[a])[apart]
    slope = max(0.0, float(np.median(slopes)))
    return FrontEnd(
        request_s=float(np.median(request - slope * tokens)),
        prompt_token_s=slope,
        response_s=float(np.median([one.response_s for one in found])),
    )


def _first_tokens(steps: Iterable[Any], prompts: Mapping[str, int]) -> dict[str, float]:
    """End of the step that computed the last token of each request's prompt."""
    ends: dict[str, float] = {}
    for step in steps:
        for name, computed, tokens in step["scheduled"]:
            if name in prompts and computed + tokens >= prompts[name]:
                ends.setdefault(name, step["end"])
    return ends


def _waited(busy: Sequence[tuple[float, float]], taken: float) -> bool:
    """Whether a step ended just before a request was taken."""
    i = bisect_left(busy, (taken,)) - 1
    return i >= 0 and taken - busy[i][1] < _IDLE_S
