"""Random cases for a scheduler: engine options, layer groups and requests."""

from __future__ import annotations

import random
from typing import Any

#: What the layers keep.
LAYERS = ("full", "window", "windows-only", "unequal", "chunked", "hybrid", "adapters")
#: Methods of speculation by family, and whether they go with asynchronous scheduling.
SPECULATIVE = {
    "ngram": {"ngram": False, "ngram_gpu": True},
    "eagle": {"eagle": True, "mtp": True},
    "draft-model": {"draft_model": True},
}
#: Families of several kinds of layers. Not compared: drafts with chunks, with recurrent states, and
#: with hidden states where there are windows; with adapters vLLM itself fails.
MIXED = {
    "stops": LAYERS,
    "aborts": LAYERS,
    "ngram": ("full", "full", "window", "windows-only", "unequal"),
    "eagle": ("full",),
    "draft-model": ("full", "full", "window", "windows-only", "unequal"),
}
FAMILIES = (*LAYERS, *MIXED)
#: All times are multiples of it, a power of two, so that no rounding decides anything.
TICK = 1 / 1024

Case = dict[str, Any]


def draw(family: str, rng: random.Random) -> tuple[Case, list[dict[str, Any]]]:
    """A case of a kind of model, and its requests."""
    longest = rng.choice([40, 150, 400])
    case = _case(family, longest, rng)
    prefixes = [[rng.randrange(9, 999) for _ in range(longest // 2)] for _ in range(3)]
    ticks = rng.sample(range(rng.choice([50, 1500])), 20 if longest < 400 else 12)
    requests: list[dict[str, Any]] = []
    for i, tick in enumerate(sorted(ticks)):
        output = rng.choice([1, 2, rng.randrange(1, longest // 2)])
        prompt = [rng.randrange(9, 999) for _ in range(rng.randrange(1, longest // 2))]
        if rng.random() < 0.7:
            shared = rng.choice(prefixes)
            prompt = shared[: rng.randrange(1, len(shared))] + prompt[: longest // 2 - output]
            prompt = prompt[: longest - output]
        if rng.random() < 0.2 and requests:
            prompt = rng.choice(requests)["prompt_token_ids"][: longest - output]
        requests.append({"id": i, "arrival_s": tick * TICK, "prompt_token_ids": prompt})
        requests[-1] |= _end(case, len(prompt), output, rng)
        requests[-1]["priority"] = rng.randrange(3) if case["policy"] == "priority" else 0
        if "max_loras" in case:
            requests[-1]["adapter"] = rng.choice([None, 1, 2, 3])
        if family == "aborts" and rng.random() < 0.5:
            requests[-1]["cancel_s"] = (tick + rng.choice([0, 20, 200, rng.randrange(3000)])) * TICK
        if "speculative" in case:
            requests[-1] |= _drafts(case, rng)
    return case, requests


def _case(family: str, longest: int, rng: random.Random) -> Case:
    """Options for sequences of up to ``longest`` tokens."""
    size = rng.choice([4, 8, 16])
    layers = rng.choice(MIXED[family]) if family in MIXED else family
    groups = _groups(layers, size, rng)
    sequences = rng.choice([1, 3, 8, 32])
    need = len(groups) * (longest // size + 3)
    caching = rng.random() < 0.75
    retention = rng.choice([0, 0, 0, None, 2 * size, 4 * size])
    windows = layers in ("window", "windows-only", "unequal")
    if not windows and (layers != "hybrid" or not caching):
        retention = 0  # the engine takes no other
    case: Case = {
        "family": family,
        "max_model_len": longest + 8,
        "max_num_seqs": sequences,
        "max_num_batched_tokens": max(sequences, rng.choice([size // 2, size, 24, 64, 100, 256])),
        "num_gpu_blocks": round(need * rng.choice([1.1, 1.5, 2.5, 6])) + 4,
        "enable_prefix_caching": caching,
        "long_prefill_token_threshold": rng.choice([0, 0, size, 3 * size + 1]),
        "policy": rng.choice(["fcfs", "fcfs", "priority"]),
        "scheduler_reserve_full_isl": rng.random() < 0.8,
        "async_scheduling": rng.random() < 0.6,
        "prefix_cache_retention_interval": retention,
        "groups": groups,
        "step_base_s": 16 * TICK,
        "step_per_token_s": rng.choice([0, 1]) * TICK,
        "step_per_seq_s": rng.choice([0, 2]) * TICK,
    }
    if layers == "adapters":
        case["max_loras"] = rng.choice([1, 2])
    if family in SPECULATIVE:
        method = rng.choice([*SPECULATIVE[family]])
        case["async_scheduling"] &= SPECULATIVE[family][method]
        drafts = rng.randrange(1, 6)
        case["speculative"] = {"method": method, "num_speculative_tokens": drafts}
        # With fewer, vLLM never admits who lacks one token only: it wants room for all drafts.
        case["max_num_batched_tokens"] = max(case["max_num_batched_tokens"], drafts + 2)
        if case["long_prefill_token_threshold"]:  # vLLM fails when that cuts what it fills up
            case["long_prefill_token_threshold"] += drafts
    return case


def _drafts(case: Case, rng: random.Random) -> dict[str, list[int]]:
    """For a request with n tokens so far: drafts right, and drafts made, at n modulo the length."""
    most = case["speculative"]["num_speculative_tokens"]
    right = [rng.randrange(most + 1) for _ in range(7)]
    made = [most] * 5
    if case["speculative"]["method"] == "ngram":
        made = [rng.choice([0, most, rng.randrange(most + 1)]) for _ in range(5)]
    return {"right": right, "drafts": made}


def _end(case: Case, prompt: int, output: int, rng: random.Random) -> dict[str, int]:
    """How long an answer is, and how long it might be: something else may end it."""
    most = output
    mixed = case["family"] in MIXED
    if (mixed or not case["async_scheduling"]) and rng.random() < 0.3:
        most += rng.choice([1, 50]) if mixed else 50  # a stop token ends it
    elif rng.random() < 0.1:
        output = case["max_model_len"] - prompt
        most = output + 50
    return {"output_tokens": output, "max_tokens": most}


def _group(kind: str, block_size: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "block_size": block_size, **more}


def _groups(family: str, size: int, rng: random.Random) -> list[dict[str, Any]]:
    """Layer groups of a kind of model."""
    window = rng.choice([size, 2 * size, 3 * size, 4 * size - 3, 2 * size + 1, 5, 6 * size])
    if family == "window":
        return [_group("full", size), _group("window", size, window=window)]
    if family == "windows-only":
        return [_group("window", size, window=window)]
    if family == "unequal":
        return [_group("full", size), _group("window", 2 * size, window=max(window, 2))]
    if family == "chunked":
        chunked = _group("chunked", size, window=size * rng.choice([2, 3, 4]))
        return [_group("full", size)] + [chunked] * rng.choice([1, 3])
    if family == "hybrid":
        state = _group("state", size, checkpoints=rng.random() < 0.4)
        return [_group("full", size)] + [state] * rng.choice([1, 2, 3])
    return [_group("full", size)]
