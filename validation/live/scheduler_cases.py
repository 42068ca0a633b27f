"""Records what vLLM's own scheduler decides in random cases; run by an engine's Python.

``python scheduler_cases.py OUT --count 100 --seed 0 [--family hybrid]`` writes one recording a line
to ``OUT``, in the form that ``servesim.validation.golden`` replays: no model runs, every step takes
what a virtual clock says, and every sampled token is the same. Imports vLLM, nothing of servesim.
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

from scheduler_draw import FAMILIES, draw
from scheduler_outputs import STOP_TOKEN, finish, give_drafts

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
            _cancel(scheduler, requests, now)
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
                if scheduler.has_unfinished_requests():
                    raise RuntimeError(f"stuck at {now}")
                continue  # what was to be scheduled was cancelled
            if len(under_way) == most or not step["scheduled"]:
                now = self._end(scheduler, case, under_way.popleft(), requests)
        while under_way:
            now = self._end(scheduler, case, under_way.popleft(), requests)
        size = min(group["block_size"] for group in case["groups"])
        return {
            "vllm_version": self.version,
            "case": case,
            "block_size": size,
            "requests": requests,
            "steps": steps,
        }

    def _end(
        self, scheduler: Any, case: dict[str, Any], step: Any, requests: list[dict[str, Any]]
    ) -> float:
        """End a step that is under way; returns when that is."""
        output, now, decided = step
        _cancel(scheduler, requests, now)
        decided["finished"] = finish(scheduler, output, requests)
        if "speculative" in case and not case["async_scheduling"]:
            give_drafts(scheduler, output, requests)
        return float(now)

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
        self._configure(case)
        mode = config.cache_config.mamba_cache_mode
        kv = KVCacheConfig(
            num_blocks=case["num_gpu_blocks"],
            kv_cache_tensors=[],
            kv_cache_groups=[
                KVCacheGroupSpec([f"layer.{i}"], _spec(group, case, mode))
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

    def _configure(self, case: dict[str, Any]) -> None:
        """Give the configuration the options of a case."""
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
        config.speculative_config = _speculation(case.get("speculative"))
        config.model_config.max_model_len = options.max_model_len = case["max_model_len"]
        cache.enable_prefix_caching = case["enable_prefix_caching"]
        cache.block_size = case["groups"][0]["block_size"]
        cache.num_gpu_blocks = case["num_gpu_blocks"]
        states = any(group["kind"] == "state" for group in case["groups"])
        cache.mamba_cache_mode = "align" if states and cache.enable_prefix_caching else "none"

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


def _cancel(scheduler: Any, requests: list[dict[str, Any]], now: float) -> None:
    """Abort who is there and was to be aborted until ``now``."""
    from vllm.v1.request import RequestStatus

    gone = [str(one["id"]) for one in requests if one.get("cancel_s", now + 1) <= now]
    scheduler.finish_requests(gone, RequestStatus.FINISHED_ABORTED)


def _speculation(given: dict[str, Any] | None) -> Any:
    """vLLM's own configuration, without looking for a draft model."""
    from vllm.config import SpeculativeConfig

    if given is None:
        return None
    config = object.__new__(SpeculativeConfig)
    others = {
        "parallel_drafting": False,
        "disable_eagle_block_drop": False,
        "num_speculative_tokens_per_batch_size": None,
        "draft_model_config": None,
    }
    for name, value in (given | others).items():
        object.__setattr__(config, name, value)
    return config


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
