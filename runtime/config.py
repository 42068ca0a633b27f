"""Options of a serving engine, under vLLM's names, meanings and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.graph.dtypes import short_name
from servesim.runtime.schedulers import SCHEDULERS

_POSITIVE = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How one engine schedules, caches and is spread over devices.

    Attributes:
        max_num_seqs: most sequences running at once.
        max_num_batched_tokens: most new tokens in a step.
        max_model_len: longest prompt plus output; None for the model's own limit.
        block_size: tokens of a KV block.
        gpu_memory_utilization: share of the device memory the engine may use.
        num_gpu_blocks_override: KV blocks, whatever the memory; one of them is never used.
        kv_cache_dtype: number format of the KV cache; ``auto`` is the model's.
        enable_prefix_caching: reuse the KV blocks of equal prefixes.
        enable_chunked_prefill: split a prompt that does not fit a step's tokens.
        long_prefill_token_threshold: most tokens of one prompt in a step when other requests are
            there too; 0 for no limit.
        scheduling_policy: name of a policy in ``runtime/schedulers``.
        scheduler_reserve_full_isl: admit a request only when all its known tokens fit the cache.
        async_scheduling: schedule a step while the one before it runs on the device.
        enforce_eager: no CUDA graphs, so that steps are not padded to captured sizes.
        tensor_parallel_size, pipeline_parallel_size, data_parallel_size: devices per dimension.
        enable_expert_parallel: spread experts, not slices of each, over the devices.

    Raises:
        InputError: a value cannot be used.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int | None = None
    block_size: int = 16
    gpu_memory_utilization: float = 0.9
    num_gpu_blocks_override: int | None = None
    kv_cache_dtype: str = "auto"
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    scheduling_policy: str = "fcfs"
    scheduler_reserve_full_isl: bool = True
    async_scheduling: bool = True
    enforce_eager: bool = False
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            _require_int(name, getattr(self, name), least=1)
        _require_int("long_prefill_token_threshold", self.long_prefill_token_threshold, least=0)
        if self.max_model_len is not None:
            _require_int("max_model_len", self.max_model_len, least=1)
        if self.num_gpu_blocks_override is not None:
            _require_int("num_gpu_blocks_override", self.num_gpu_blocks_override, least=2)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise InputError(
                f"gpu_memory_utilization must be in (0, 1], not {self.gpu_memory_utilization}"
            )
        if self.kv_cache_dtype != "auto":
            short_name(self.kv_cache_dtype)
        SCHEDULERS.get(self.scheduling_policy)
        self._check_token_budget()

    def _check_token_budget(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InputError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({self.max_num_seqs}), so that every sequence can decode"
            )
        if self.enable_chunked_prefill or self.max_model_len is None:
            return
        if self.max_num_batched_tokens < self.max_model_len:
            raise InputError(
                f"without chunked prefill max_num_batched_tokens ({self.max_num_batched_tokens}) "
                f"must be at least max_model_len ({self.max_model_len})"
            )

    @property
    def cudagraph_capture_sizes(self) -> tuple[int, ...]:
        """Token counts that smaller steps are padded to; none when ``enforce_eager``.

        vLLM's default (``VllmConfig._set_cudagraph_sizes``): 1, 2, 4, every 8 to 256 and every 16
        beyond, up to twice ``max_num_seqs`` or 512.
        """
        if self.enforce_eager:
            return ()
        most = min(2 * self.max_num_seqs, 512, self.max_num_batched_tokens)
        sizes = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
        return tuple(size for size in sizes if size <= most)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> EngineConfig:
        """A config from options by name, as a scenario file gives them.

        Raises:
            UnknownNameError: no such option.
            InputError: a value cannot be used.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownNameError("engine option", name, known)
        return cls(**options)


def _require_int(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, not {value}")
