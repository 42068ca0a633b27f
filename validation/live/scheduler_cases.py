"""Records what vLLM's own scheduler decides in random cases; run by an engine's Python.

``python scheduler_cases.py OUT --count 100 --seed 0 [--family hybrid]`` writes one recording a line
to ``OUT``, in the form that ``servesim.validation.golden`` replays: no model runs, every step takes
what a virtual clock says, and every sampled token is the same. Times are multiples of a power of
two, so that no rounding decides anything. Imports vLLM, nothing of servesim.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SAMPLED_TOKEN = 7
STOP_TOKEN = 2
TICK = 1 / 1024
#: A model that vLLM accepts; nothing of it is loaded.
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 1000,
    "max_position_embeddings": 8192,
}


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


def draw(family: str, rng: random.Random) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A case and its requests."""
    size = rng.choice([4, 8, 16])
    groups = _groups(family, size, rng)
    sequences = rng.choice([1, 3, 8, 32])
    budget = max(sequences, rng.choice([size // 2, size, 24, 64, 100, 256]))
    longest = rng.choice([40, 150, 400])
    need = len(groups) * (longest // size + 3)
    caching = rng.random() < 0.75
    case: dict[str, Any] = {
        "family": family,
        "max_model_len": longest + 8,
        "max_num_seqs": sequences,
        "max_num_batched_tokens": budget,
        "num_gpu_blocks": round(need * rng.choice([1.1, 1.5, 2.5, 6])) + 4,
        "enable_prefix_caching": caching,
        "long_prefill_token_threshold": rng.choice([0, 0, size, 3 * size + 1]),
        "policy": rng.choice(["fcfs", "fcfs", "priority"]),
        "scheduler_reserve_full_isl": rng.random() < 0.8,
        "async_scheduling": rng.random() < 0.6,
        "prefix_cache_retention_interval": rng.choice([0, 0, 0, None, 2 * size, 4 * size]),
        "groups": groups,
        "step_base_s": 16 * TICK,
        "step_per_token_s": rng.choice([0, 1]) * TICK,
        "step_per_seq_s": rng.choice([0, 2]) * TICK,
    }
    if family in ("full", "adapters", "chunked") or (family == "hybrid" and not caching):
        case["prefix_cache_retention_interval"] = 0
    if family == "adapters":
        case["max_loras"] = rng.choice([1, 2])
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
        most = output
        if not case["async_scheduling"] and rng.random() < 0.3:
            most += 50  # a stop token ends it; asynchronous scheduling would run a step too far
        elif rng.random() < 0.1:
            output = case["max_model_len"] - len(prompt)
            most = output + 50
        requests.append(
            {
                "id": i,
                "arrival_s": tick * TICK,
                "prompt_token_ids": prompt,
                "output_tokens": output,
                "max_tokens": most,
                "priority": rng.randrange(3) if case["policy"] == "priority" else 0,
            }
        )
        if family == "adapters":
            requests[-1]["adapter"] = rng.choice([None, 1, 2, 3])
    return case, requests


class Recorder:
    """Builds schedulers for cases, around one configuration of vLLM."""

    def __init__(self) -> None:
        from vllm import __version__
        from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import init_none_hash
        from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs

        self.version = __version__
        self._hash = sha256
        init_none_hash(sha256)
        folder = Path(tempfile.mkdtemp())
        (folder / "config.json").write_text(json.dumps(_CONFIG))
        model = ModelConfig(model=str(folder), skip_tokenizer_init=True, dtype="bfloat16")
        self._config = VllmConfig(
            model_config=model,
            cache_config=CacheConfig(block_size=16, enable_prefix_caching=True),
            scheduler_config=SchedulerConfig(
                max_num_seqs=8,
                max_num_batched_tokens=8192,
                max_model_len=model.max_model_len,
                is_encoder_decoder=False,
            ),
        )
        register_all_kvcache_specs(self._config)

    def record(self, case: dict[str, Any], requests: list[dict[str, Any]]) -> dict[str, Any]:
        """What vLLM decides for ``requests``."""
        scheduler, hasher = self._scheduler(case)
        waiting = deque(self._request(request, hasher) for request in requests)
        steps: list[dict[str, Any]] = []
        under_way: deque[tuple[Any, float, dict[str, Any]]] = deque()
        now = end = 0.0
        most = 2 if case["async_scheduling"] else 1
        while waiting or scheduler.has_unfinished_requests():
            if not under_way and not scheduler.has_unfinished_requests():
                now = max(now, waiting[0].arrival_time)
            while waiting and waiting[0].arrival_time <= now:
                scheduler.add_request(waiting.popleft())
            step, output = self._schedule(scheduler)
            if step["scheduled"] or step["preempted"]:
                tokens = sum(row[2] for row in step["scheduled"])
                seconds = (
                    case["step_base_s"]
                    + case["step_per_token_s"] * tokens
                    + case["step_per_seq_s"] * len(step["scheduled"])
                )
                end = max(now, end) + seconds
                under_way.append((output, end, step))
                steps.append(step)
            elif not under_way:
                raise RuntimeError(f"stuck at {now}")
            if len(under_way) == most or not step["scheduled"]:
                output, now, step = under_way.popleft()
                step["finished"] = _finish(scheduler, output, requests)
        while under_way:
            output, now, step = under_way.popleft()
            step["finished"] = _finish(scheduler, output, requests)
        size = min(group["block_size"] for group in case["groups"])
        return {
            "vllm_version": self.version,
            "case": case,
            "block_size": size,
            "requests": requests,
            "steps": steps,
        }

    def _schedule(self, scheduler: Any) -> tuple[dict[str, Any], Any]:
        output, pool = scheduler.schedule(), scheduler.kv_cache_manager.block_pool
        rows = [
            [int(name), scheduler.requests[name].num_computed_tokens - tokens, tokens]
            for name, tokens in output.num_scheduled_tokens.items()
        ]
        step = {
            "scheduled": rows,
            "preempted": sorted(map(int, output.preempted_req_ids or ())),
            "finished": [],
            "free_blocks_after_schedule": pool.get_num_free_blocks(),
            "waiting": len(scheduler.waiting),
        }
        return step, output

    def _scheduler(self, case: dict[str, Any]) -> tuple[Any, Any]:
        from vllm.v1.core.kv_cache_utils import (
            get_request_block_hasher,
            resolve_kv_cache_block_sizes,
        )
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        config = self._config
        options, cache = config.scheduler_config, config.cache_config
        for name in (
            "max_num_seqs",
            "max_num_batched_tokens",
            "long_prefill_token_threshold",
            "policy",
            "scheduler_reserve_full_isl",
            "async_scheduling",
        ):
            setattr(options, name, case[name])
        loras = case.get("max_loras")
        config.lora_config = SimpleNamespace(max_loras=loras) if loras else None
        config.model_config.max_model_len = options.max_model_len = case["max_model_len"]
        cache.enable_prefix_caching = case["enable_prefix_caching"]
        cache.block_size = case["groups"][0]["block_size"]
        cache.num_gpu_blocks = case["num_gpu_blocks"]
        states = any(group["kind"] == "state" for group in case["groups"])
        cache.mamba_cache_mode = "align" if states and cache.enable_prefix_caching else "none"
        kv = KVCacheConfig(
            num_blocks=case["num_gpu_blocks"],
            kv_cache_tensors=[],
            kv_cache_groups=[
                KVCacheGroupSpec([f"layer.{i}"], _spec(group, case, cache.mamba_cache_mode))
                for i, group in enumerate(case["groups"])
            ],
            prefix_cache_retention_interval=case["prefix_cache_retention_interval"],
        )
        block_size, hash_size = resolve_kv_cache_block_sizes(kv, config)
        kind = AsyncScheduler if case["async_scheduling"] else Scheduler
        scheduler = kind(
            vllm_config=config,
            kv_cache_config=kv,
            structured_output_manager=StructuredOutputManager(config),
            block_size=block_size,
            hash_block_size=hash_size,
        )
        hasher = get_request_block_hasher(hash_size, self._hash)
        return scheduler, hasher if case["enable_prefix_caching"] else None

    def _request(self, request: dict[str, Any], hasher: Any) -> Any:
        from vllm import SamplingParams
        from vllm.v1.request import Request

        return Request(
            request_id=str(request["id"]),
            prompt_token_ids=request["prompt_token_ids"],
            sampling_params=SamplingParams(
                max_tokens=request["max_tokens"], ignore_eos=True, stop_token_ids=[STOP_TOKEN]
            ),
            pooling_params=None,
            arrival_time=request["arrival_s"],
            block_hasher=hasher,
            lora_request=_adapter(request.get("adapter")),
            priority=request["priority"],
        )


def _adapter(number: int | None) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"adapter-{number}", number, "nowhere") if number else None


def _spec(group: dict[str, Any], case: dict[str, Any], mode: str) -> Any:
    import torch
    from vllm.v1.kv_cache_interface import (
        ChunkedLocalAttentionSpec,
        FullAttentionSpec,
        MambaSpec,
        SlidingWindowSpec,
    )

    size, kind = group["block_size"], group["kind"]
    if kind == "state":
        return MambaSpec(
            block_size=size if mode == "align" else case["max_model_len"],
            shapes=((1,),),
            dtypes=(torch.float32,),
            mamba_cache_mode=mode,
            num_prefill_checkpoint_blocks=int(group["checkpoints"]),
            prefill_checkpoint_alignment=1 if group["checkpoints"] else None,
        )
    head = {"block_size": size, "num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
    if kind == "window":
        return SlidingWindowSpec(**head, sliding_window=group["window"])
    if kind == "chunked":
        return ChunkedLocalAttentionSpec(**head, attention_chunk_size=group["window"])
    return FullAttentionSpec(**head)


def _finish(scheduler: Any, output: Any, requests: list[dict[str, Any]]) -> list[int]:
    """Hand the step's tokens to the scheduler; returns the requests that finished."""
    from vllm.v1.outputs import ModelRunnerOutput

    names = list(output.num_scheduled_tokens)
    tokens: list[list[int]] = []
    for name in names:
        request = scheduler.requests.get(name)
        computed = output.num_scheduled_tokens[name] + _computed(output, name)
        if request is None or computed < request.num_tokens:
            tokens.append([])
        else:
            last = requests[int(name)]["output_tokens"] == request.num_output_tokens + 1
            tokens.append([STOP_TOKEN if last else SAMPLED_TOKEN])
    ran = ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: i for i, name in enumerate(names)},
        sampled_token_ids=tokens,
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


def _computed(output: Any, name: str) -> int:
    """Tokens of a request computed before a step."""
    for new in output.scheduled_new_reqs:
        if new.req_id == name:
            return int(new.num_computed_tokens)
    cached = output.scheduled_cached_reqs
    return int(cached.num_computed_tokens[cached.req_ids.index(name)])


FAMILIES = ("full", "window", "windows-only", "unequal", "chunked", "hybrid", "adapters")


def main() -> None:
    """Record random cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    given = parser.parse_args()
    recorder = Recorder()
    with given.out.open("w", encoding="utf-8") as file:
        for number in range(given.seed, given.seed + given.count):
            rng = random.Random(number)
            family = rng.choice(given.family or FAMILIES)
            recording = recorder.record(*draw(family, rng))
            file.write(json.dumps({"seed": number, **recording}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
