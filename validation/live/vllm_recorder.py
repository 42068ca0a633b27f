"""A vLLM scheduler that records what it decides; loaded by vLLM itself, as ``scheduler_cls``.

This file runs in the engine's process, under the engine's Python: it imports vLLM and nothing of
servesim. Records are kept in memory and written, one JSON line a step or request, whenever the
engine has nothing left to do, so that writing costs no step any time.
"""

from __future__ import annotations

import time
from typing import Any

from engine_side import Lines, pin
from vllm.v1.core.sched.scheduler import Scheduler
from vllm_experts import ExpertCounts


class RecordingScheduler(Scheduler):  # type: ignore[misc]
    """vLLM's own scheduler, with a clock beside it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        pin()
        self._lines = Lines()
        self._lines.add(
            {
                "kind": "engine",
                "num_gpu_blocks": self.kv_cache_config.num_blocks,
                "block_size": self.cache_config.block_size,
                "max_num_batched_tokens": self.max_num_scheduled_tokens,
                "max_num_seqs": self.max_num_running_reqs,
                "enable_prefix_caching": self.cache_config.enable_prefix_caching,
                "enable_chunked_prefill": self.scheduler_config.enable_chunked_prefill,
                "async_scheduling": self.scheduler_config.async_scheduling,
                "long_prefill_token_threshold": self.scheduler_config.long_prefill_token_threshold,
            }
        )
        self._step: dict[str, Any] = {}
        self._experts = ExpertCounts()
        self._flush()

    def add_request(self, request: Any) -> None:
        """Note when the engine core takes a request."""
        self._lines.add({"kind": "queued", "id": request.request_id, "s": time.monotonic()})
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Note what is scheduled, and when."""
        start = time.monotonic()
        output = super().schedule(*args, **kwargs)
        rows = [
            [name, self.requests[name].num_computed_tokens - tokens, tokens]
            for name, tokens in output.num_scheduled_tokens.items()
        ]
        self._step = {
            "kind": "step",
            "start": start,
            "scheduled": rows,
            "preempted": sorted(output.preempted_req_ids or ()),
            "free": self.kv_cache_manager.block_pool.get_num_free_blocks(),
            "model_start": time.monotonic(),
        }
        self._experts.before_step(len(rows), output.total_num_scheduled_tokens)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Note when the model was done, and when its tokens were added."""
        step, self._step = self._step, {}
        step["model_end"] = time.monotonic()
        output = super().update_from_output(scheduler_output, model_runner_output)
        step["end"] = time.monotonic()
        if step["scheduled"]:
            self._lines.add(step)
        if not self.has_unfinished_requests():
            self._flush()
        return output

    def _flush(self) -> None:
        if rows := self._experts.news():
            self._lines.add({"kind": "experts", "tokens": rows})
        self._lines.flush()
