"""Records what the schedulers of transformers decide in random cases; run by an engine's Python.

``python transformers_cases.py OUT --count 100 --seed 0`` writes one recording a line to ``OUT``, as
``scheduler_cases`` does for vLLM: no model runs, every step takes what a virtual clock says, and
every sampled token is the same. With transformers 5.17 add ``--policies transformers-fifo-5.17``.
Imports torch and transformers, nothing of servesim.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scheduler_draw import TICK
from scheduler_outputs import SAMPLED_TOKEN
from transformers_client import SCHEDULERS
from transformers_recorder import free_blocks

_POLICIES = ("transformers-fifo", "transformers-prefill-first")


class Engine:
    """The scheduler of a case, its KV cache, and what gives way: all but the model."""

    def __init__(self, case: dict[str, Any]) -> None:
        import torch
        from transformers import ContinuousBatchingConfig, LlamaConfig
        from transformers.generation.continuous_batching import cache, offloading_manager, scheduler
        from transformers.generation.continuous_batching.distributed import DistributedHelper

        alone = DistributedHelper(device_mesh=None, cpu_group_timeout=None, tp_plan={})
        batching = ContinuousBatchingConfig(
            page_size=case["block_size"],
            num_blocks=case["num_gpu_blocks"] - 1,
            max_batch_tokens=case["max_num_batched_tokens"],
            max_requests_per_batch=case["max_num_seqs"],
            max_blocks_per_request=0,
            allow_block_sharing=False,
            max_memory_percent=1.0,
        )
        model = LlamaConfig(
            hidden_size=32, num_attention_heads=1, num_hidden_layers=1, vocab_size=8
        )
        self.cache = cache.PagedAttentionCache(model, batching, "cpu", alone, torch.float32)
        kind = scheduler.SCHEDULER_MAPPING[SCHEDULERS[case["policy"]]]
        self.scheduler = kind(self.cache, None, case["max_num_seqs"])
        self.offloading = offloading_manager.OffloadingManager(
            self.cache, self.scheduler, 0.0, 0.8, None, alone
        )
        self.known: set[str] = set()
        self.again: list[int] = []
        inner = self.scheduler.add_waiting_request

        def add(state: Any) -> None:
            if state.request_id in self.known:
                self.again.append(int(state.request_id))
            self.known.add(state.request_id)
            inner(state)

        self.scheduler.add_waiting_request = add

    def add(self, request: dict[str, Any]) -> None:
        """Let a request wait."""
        from transformers.generation.continuous_batching.requests import RequestState

        self.scheduler.add_waiting_request(
            RequestState(
                str(request["id"]),
                list(request["prompt_token_ids"]),
                max_new_tokens=request["output_tokens"],
            )
        )

    def schedule(self) -> list[Any]:
        """The next step, as ``ContinuousBatchProcessor.prepare_next_batch`` finds it.

        Raises:
            RuntimeError: nobody can be served.
        """
        self.again.clear()
        budget = self.cache.max_batch_tokens, self.cache.max_tokens_read
        batch = self.scheduler.schedule_batch(*budget)[0]
        while batch is None:
            if not self.offloading.offload_requests():
                raise RuntimeError("no request can be scheduled")
            batch = self.scheduler.schedule_batch(*budget)[0]
        if batch and self.scheduler.starved_requests:
            self.offloading.offload_requests()
        return list(batch)

    def update(self, batch: list[Any]) -> list[int]:
        """Add the tokens of a step, as ``update_batch`` does; returns who finished."""
        finished = []
        for one in batch:
            state = one.state
            if one.has_new_token and state.update_and_check_completion(SAMPLED_TOKEN, None):
                self.scheduler.finish_request(state.request_id)
                self.scheduler.block_new_requests = False
                finished.append(int(state.request_id))
        return finished


def record(case: dict[str, Any], requests: list[dict[str, Any]]) -> dict[str, Any]:
    """What transformers decides for ``requests``."""
    from transformers import __version__

    engine, waiting = Engine(case), deque(requests)
    steps: list[dict[str, Any]] = []
    now = 0.0
    while waiting or engine.scheduler.has_pending_requests():
        if not engine.scheduler.has_pending_requests():
            now = max(now, waiting[0]["arrival_s"])
        while waiting and waiting[0]["arrival_s"] <= now:
            engine.add(waiting.popleft())
        batch = engine.schedule()
        rows = []
        for one in batch:
            rows.append([int(one.state.request_id), one.state.position_offset, one.query_length])
            one.state.position_offset += one.query_length
        step = {
            "scheduled": rows,
            "preempted": sorted(engine.again),
            "free_blocks_after_schedule": free_blocks(engine.cache),
            "waiting": len(engine.scheduler.waiting_requests),
        }
        tokens = sum(row[2] for row in rows)
        now += case["step_base_s"] + case["step_per_token_s"] * tokens
        now += case["step_per_seq_s"] * len(rows)
        steps.append({**step, "finished": engine.update(batch)})
    return {
        "transformers_version": __version__,
        "case": case,
        "block_size": case["block_size"],
        "requests": requests,
        "steps": steps,
    }


def draw(
    rng: random.Random, policies: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A case of one of the ``policies``, and its requests."""
    longest = rng.choice([40, 150, 400])
    size, sequences = rng.choice([4, 8, 16]), rng.choice([1, 3, 8, 32])
    case = {
        "family": "transformers",
        "policy": rng.choice(policies),
        "block_size": size,
        "max_model_len": longest + 8,
        "max_num_seqs": sequences,
        "max_num_batched_tokens": max(sequences, rng.choice([size // 2, size, 24, 64, 100, 256])),
        "num_gpu_blocks": round((longest // size + 3) * rng.choice([1.1, 1.5, 2.5, 6])) + 4,
        "enable_prefix_caching": False,
        "async_scheduling": False,
        "groups": [{"kind": "full", "block_size": size}],
        "step_base_s": 16 * TICK,
        "step_per_token_s": rng.choice([0, 1]) * TICK,
        "step_per_seq_s": rng.choice([0, 2]) * TICK,
    }
    ticks = sorted(rng.sample(range(rng.choice([50, 1500])), 20 if longest < 400 else 12))
    requests = []
    for i, tick in enumerate(ticks):
        prompt = [3] * rng.randrange(1, longest // 2)
        output = rng.choice([1, 2, rng.randrange(1, longest // 2)])
        requests.append(
            {
                "id": i,
                "arrival_s": tick * TICK,
                "prompt_token_ids": prompt,
                "output_tokens": output,
                "priority": 0,
            }
        )
    return case, requests


def main() -> None:
    """Record random cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policies", nargs="+", choices=SCHEDULERS, default=_POLICIES)
    given = parser.parse_args()
    with given.out.open("w", encoding="utf-8") as file:
        for number in range(given.seed, given.seed + given.count):
            recording = record(*draw(random.Random(number), given.policies))
            file.write(json.dumps({"seed": number, **recording}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
