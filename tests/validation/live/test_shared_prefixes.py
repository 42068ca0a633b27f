"""Loads whose prompts share prefixes: as sent, as recorded, as simulated."""

from __future__ import annotations

from typing import Any

import pytest

from servesim.errors import InputError
from servesim.validation.live.decisions import spec_of
from servesim.validation.live.loads import SHARED_PREFIX
from servesim.validation.live.record import shared_blocks
from servesim.validation.live.recorded import SHARED_BLOCK, from_json
from servesim.validation.live.served import measured_run


def _run(prompt_tokens: int, *shared: int) -> dict[str, Any]:
    """One request in one step."""
    times = {"arrival_s": [0.0], "queued_s": [0.0], "scheduled_s": [0.0]}
    times |= {"first_token_s": [1.0], "finished_s": [1.0]}
    requests = {**times, "prompt_tokens": [prompt_tokens], "output_tokens": [1]}
    steps = {"start_s": [0.0], "end_s": [1.0], "model_s": [1.0], "preempted": [[]]}
    steps |= {"scheduled": [[[0, 0, prompt_tokens]]], "free_blocks": [9]}
    about = {"format": 1, "model": "m", "load": "shared-prefix", "repeat": 1}
    requests |= {"shared": [list(shared)]} if shared else {}
    return {**about, "engine": {"block_size": 32}, "requests": requests, "steps": steps}


def test_every_prompt_begins_with_one_of_a_few_prefixes() -> None:
    requests = SHARED_PREFIX.requests(4.0, 100, 1000)
    assert requests == SHARED_PREFIX.requests(4.0, 100, 1000)
    heads = {tuple(prompt[: SHARED_PREFIX.prefix_tokens]) for _, prompt, _ in requests}
    assert len(heads) == SHARED_PREFIX.prefixes
    lengths = {len(prompt) - SHARED_PREFIX.prefix_tokens for _, prompt, _ in requests}
    assert SHARED_PREFIX.prompt_tokens[0] <= min(lengths)
    assert max(lengths) <= SHARED_PREFIX.prompt_tokens[1]


def test_of_prompts_it_is_noted_which_leading_blocks_others_have() -> None:
    head = list(range(2 * SHARED_BLOCK))
    prompts = [[*head, 7], [*head, *range(900, 960)], [5, *head]]
    first, second, third = shared_blocks(prompts)
    assert first == second
    assert (len(first), third) == (2, [])


def test_what_was_shared_is_simulated_in_the_engines_blocks() -> None:
    run = from_json(_run(70, 4, 5, 8, 9), "run")
    assert spec_of(run.requests[0]).prefix_block_ids == (4, 5, 8, 9)
    assert spec_of(run.requests[0]).prefix_block_size == SHARED_BLOCK
    assert measured_run(run, {}, "cpu").requests[0].prefix_block_ids == (5, 9)


def test_a_recording_without_prefixes_shares_nothing() -> None:
    assert from_json(_run(70), "run").requests[0].shared == ()


@pytest.mark.parametrize("shared", [(1, 2, 3, 4, 5), (-1,)])
def test_prefixes_that_cannot_be_are_refused(shared: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="request 0 cannot share"):
        from_json(_run(70, *shared), "run")
