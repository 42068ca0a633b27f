"""What a model would answer to a step of vLLM's scheduler, and handing it over."""

from __future__ import annotations

from typing import Any

#: What every step samples, and what ends an answer.
SAMPLED_TOKEN, STOP_TOKEN = 7, 2


def finish(scheduler: Any, output: Any, requests: list[dict[str, Any]]) -> list[int]:
    """Hand the step's tokens to the scheduler; returns the requests that finished."""
    from vllm.v1.outputs import ModelRunnerOutput

    names = list(output.num_scheduled_tokens)
    ran = ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: i for i, name in enumerate(names)},
        sampled_token_ids=[_tokens(scheduler, output, name, requests) for name in names],
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )
    answered = scheduler.update_from_output(output, ran)
    return [
        int(one.request_id)
        for batch in answered.values()
        for one in batch.outputs
        if one.finish_reason is not None
    ]


def give_drafts(scheduler: Any, output: Any, requests: list[dict[str, Any]]) -> None:
    """Hand the drafts that follow a step to a synchronous scheduler."""
    from vllm.v1.outputs import DraftTokenIds

    names = [name for name in output.num_scheduled_tokens if name in scheduler.requests]
    drafts = []
    for name in names:
        made, known = requests[int(name)]["drafts"], scheduler.requests[name].num_output_tokens
        drafts.append([SAMPLED_TOKEN] * made[known % len(made)])
    scheduler.update_draft_token_ids(DraftTokenIds(names, drafts))


def _tokens(scheduler: Any, output: Any, name: str, requests: list[dict[str, Any]]) -> list[int]:
    """What comes out of a step for a request: its drafts up to the first wrong one, and one."""
    request = scheduler.requests.get(name)
    computed, fresh = _computed(output, name)
    if request is None or computed + output.num_scheduled_tokens[name] < request.num_tokens:
        return []
    asked, known = requests[int(name)], request.num_output_tokens
    drafts = len(output.scheduled_spec_decode_tokens.get(name, ()))
    right = 0
    if drafts and not fresh:  # of one just admitted the drafts are only padding
        right = min(drafts, asked["right"][known % len(asked["right"])])
    last = asked["output_tokens"]
    return [STOP_TOKEN if known + i == last else SAMPLED_TOKEN for i in range(1, 2 + right)]


def _computed(output: Any, name: str) -> tuple[int, bool]:
    """Tokens of a request computed before a step, and whether it was admitted for the step."""
    for new in output.scheduled_new_reqs:
        if new.req_id == name:
            return int(new.num_computed_tokens), True
    cached = output.scheduled_cached_reqs
    computed = int(cached.num_computed_tokens[cached.req_ids.index(name)])
    return computed, name in cached.resumed_req_ids
