"""Watches the continuous batching of transformers; runs in the engine's process.

Imports transformers, nothing of servesim. As vLLM's recorder it keeps one record a step or request
in memory, and writes them, one JSON line each, whenever the engine has nothing left to do.
"""

from __future__ import annotations

import time
from typing import Any

from engine_side import Lines, pin


def free_blocks(cache: Any) -> int:
    """KV blocks that no request holds, of a model whose layers all keep every token."""
    if hasattr(cache, "get_num_free_blocks"):  # before 5.20
        return int(cache.get_num_free_blocks())
    (allocator,) = cache.cache_allocators.values()
    pool = cache.pool
    kept = pool.num_free_sectors * allocator.blocks_per_sector
    return int(kept + pool.count_free_blocks(allocator.index))


class Recorder:
    """Listens to a batch processor and its scheduler through methods laid over theirs.

    Args:
        options: settled engine options, by vLLM's names.
    """

    def __init__(self, processor: Any, options: dict[str, Any]) -> None:
        self._lines = Lines()
        self._lines.add({"kind": "engine", **options})
        self._step: dict[str, Any] = {}
        self._known: set[str] = set()
        self._processor, self._scheduler = processor, processor.scheduler
        self._pinned = False
        self._inner = {
            name: getattr(owner, name)
            for owner, name in (
                (self._scheduler, "add_waiting_request"),
                (self._scheduler, "schedule_batch"),
                (processor.inputs_and_outputs, "prepare_batch_tensors"),
                (processor, "prepare_next_batch"),
                (processor, "_generation_step"),
                (processor, "update_batch"),
            )
        }
        self._scheduler.add_waiting_request = self._add_waiting_request
        self._scheduler.schedule_batch = self._schedule_batch
        processor.inputs_and_outputs.prepare_batch_tensors = self._prepare_batch_tensors
        processor.prepare_next_batch = self._prepare_next_batch
        processor._generation_step = self._generation_step
        processor.update_batch = self._update_batch
        self._lines.flush()

    def _prepare_next_batch(self) -> bool:
        """Pin the engine's thread, once; a step's record begins anew."""
        if not self._pinned:
            pin()
        self._pinned = True
        self._step = {"kind": "step", "preempted": []}
        return bool(self._inner["prepare_next_batch"]())

    def _add_waiting_request(self, state: Any) -> None:
        """Note when the engine takes a request, or lets one wait again."""
        name = state.request_id
        if name in self._known:
            self._step["preempted"].append(name)
        else:
            self._known.add(name)
            self._lines.add({"kind": "queued", "id": name, "s": time.monotonic()})
        self._inner["add_waiting_request"](state)

    def _schedule_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Note when scheduling begins."""
        self._step.setdefault("start", time.monotonic())
        return self._inner["schedule_batch"](*args, **kwargs)

    def _prepare_batch_tensors(self, requests_in_batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Note what was scheduled: from here on it is the model's inputs that are prepared."""
        self._step |= {
            "scheduled": [
                [one.state.request_id, one.state.position_offset, one.query_length]
                for one in requests_in_batch
            ],
            "free": free_blocks(self._processor.cache),
            "model_start": time.monotonic(),
        }
        return self._inner["prepare_batch_tensors"](requests_in_batch, *args, **kwargs)

    def _generation_step(self, *args: Any, **kwargs: Any) -> None:
        """Note when the model was done; without asynchronous batching its tokens are here then."""
        self._inner["_generation_step"](*args, **kwargs)
        self._step["model_end"] = time.monotonic()

    def _update_batch(self) -> None:
        """Note when the tokens were added."""
        self._inner["update_batch"]()
        self._step["end"] = time.monotonic()
        self._step["preempted"].sort()
        self._lines.add(self._step)
        if not self._scheduler.has_pending_requests():
            self._lines.flush()
