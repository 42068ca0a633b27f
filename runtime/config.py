"""Options of a serving engine, under vLLM's names, meanings and defaults."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from servesim import vllm_defaults
from servesim.errors import InputError
from servesim.graph.dtypes import kv_cache_name
from servesim.graph.passes.expert import ExpertOptions
from servesim.registry import require_known
from servesim.runtime.schedulers import SCHEDULERS
from servesim.runtime.speculation import Speculation
from servesim.vllm_defaults import FITTING, StepLimits

_POSITIVE = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "decode_context_parallel_size",
    "prefill_context_parallel_size",
    "max_loras",
)
#: Ranks of adapters that vLLM has kernels for (``MaxLoRARanks`` of its ``config/lora.py``).
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How one engine schedules, caches and is spread over devices.

    Attributes:
        max_num_seqs: most sequences running at once (by default as many as vLLM takes on the
            device).
        max_num_batched_tokens: most new tokens in a step (by default as many as vLLM takes on
            the device).
        max_model_len: longest prompt plus output; None for the model's own limit, -1 for as much of
            it as the KV cache holds.
        block_size: tokens of a KV block.
        gpu_memory_utilization: share of the device memory the engine may use.
        num_gpu_blocks_override: KV blocks, whatever the memory; one of them is never used.
        kv_cache_dtype: number format of the KV cache; ``auto`` is the model's.
        enable_prefix_caching: reuse the KV blocks of equal prefixes.
        prefix_cache_retention_interval: layers that see a window keep what ends at multiples of so
            many tokens; 0 keeps only the end of the prompt, none (from Python) everything.
        enable_chunked_prefill: split a prompt that does not fit a step's tokens.
        long_prefill_token_threshold: most tokens of one prompt in a step when other requests are
            there too; 0 for no limit.
        scheduling_policy: name of a policy in ``runtime/schedulers``.
        scheduler_reserve_full_isl: admit a request only when all its known tokens fit the cache.
        async_scheduling: schedule a step while the one before it runs on the device.
        enforce_eager: no CUDA graphs, so that steps are not padded to captured sizes; what the host
            then takes to launch kernels is not modelled.
        tensor_parallel_size: devices that share each layer.
        pipeline_parallel_size: groups of devices, each with a part of the layers.
        data_parallel_size: replicas of the engine that share experts, or nothing.
        decode_context_parallel_size: tensor-parallel ranks that share KV heads by tokens.
        prefill_context_parallel_size: further devices that share prompts and KV cache by tokens.
        enable_expert_parallel: spread experts, not slices of each, over the devices.
        all2all_backend: how tokens reach experts on other data-parallel ranks:
            ``allgather_reducescatter``, or all to all as ``deepep_high_throughput``.
        expert_placement_strategy: which experts a device holds: ``linear`` or ``round_robin``.
        enable_eplb: place experts by their load.
        num_redundant_experts: replicas of busy experts, with ``enable_eplb``.
        enable_lora: serve LoRA adapters.
        max_loras: most different adapters in a step, and on the device.
        max_lora_rank: columns that each adapter's first product has: 1, 8, 16, 32, 64, 128, 256,
            320 or 512.
        cpu_offload_gb: GiB of each device's weights that stay in host memory.
        cpu_offload_params: which: of all layers alike, or ``experts`` alone.
        offload_prefetch_step: layers that are fetched ahead; with 0 weights are read from host
            memory when they are needed.
        speculative_config: a table: how tokens are drafted, and how well (``Speculation``).

    Raises:
        InputError: a value cannot be used.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    block_size: int = 16
    gpu_memory_utilization: float = 0.9
    num_gpu_blocks_override: int | None = None
    kv_cache_dtype: str = "auto"
    enable_prefix_caching: bool = True
    prefix_cache_retention_interval: int | None = 0
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    scheduling_policy: str = "fcfs"
    scheduler_reserve_full_isl: bool = True
    async_scheduling: bool = True
    enforce_eager: bool = False
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    decode_context_parallel_size: int = 1
    prefill_context_parallel_size: int = 1
    enable_expert_parallel: bool = False
    all2all_backend: str = "allgather_reducescatter"
    expert_placement_strategy: str = "linear"
    enable_eplb: bool = False
    num_redundant_experts: int = 0
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    cpu_offload_gb: float = 0.0
    cpu_offload_params: Literal["", "experts"] = ""
    offload_prefetch_step: int = 0
    speculative_config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and (name, value) != ("max_model_len", FITTING):
                _require_int(name, value, least=1)
        for name in (
            "long_prefill_token_threshold",
            "num_redundant_experts",
            "offload_prefetch_step",
        ):
            _require_int(name, getattr(self, name), least=0)
        if self.cpu_offload_gb < 0:
            raise InputError(f"cpu_offload_gb must not be negative, not {self.cpu_offload_gb}")
        if self.cpu_offload_params not in ("", "experts"):
            raise InputError(f"cpu_offload_params is 'experts', not {self.cpu_offload_params!r}")
        if self.num_gpu_blocks_override is not None:
            _require_int("num_gpu_blocks_override", self.num_gpu_blocks_override, least=2)
        if (interval := self.prefix_cache_retention_interval) is not None:
            _require_int("prefix_cache_retention_interval", interval, least=0)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise InputError(
                f"gpu_memory_utilization must be in (0, 1], not {self.gpu_memory_utilization}"
            )
        if self.kv_cache_dtype != "auto":
            kv_cache_name(self.kv_cache_dtype)
        if self.max_lora_rank not in _LORA_RANKS:
            raise InputError(
                f"max_lora_rank must be one of {_LORA_RANKS}, not {self.max_lora_rank}"
            )
        SCHEDULERS.get(self.scheduling_policy)
        ExpertOptions(
            enable_expert_parallel=self.enable_expert_parallel,
            all2all_backend=self.all2all_backend,
            enable_eplb=self.enable_eplb,
            num_redundant_experts=self.num_redundant_experts,
        )
        self._check_token_budget()

    def _check_token_budget(self) -> None:
        most, sequences = self.limits.max_num_batched_tokens, self.limits.max_num_seqs
        if most < sequences:
            raise InputError(
                f"max_num_batched_tokens ({most}) must be at least max_num_seqs ({sequences}), so "
                f"that every sequence can decode"
            )
        each = self.speculation.tokens_each + self.speculation.slots if self.speculation else 0
        if most < each:
            raise InputError(
                f"max_num_batched_tokens ({most}) leaves no room for the {each} tokens of a"
                " sequence that verifies drafts"
            )
        if self.enable_chunked_prefill or self.max_model_len is None:
            return
        if most < self.max_model_len:
            raise InputError(
                f"without chunked prefill max_num_batched_tokens ({most}) must be at least "
                f"max_model_len ({self.max_model_len})"
            )

    @property
    def speculation(self) -> Speculation | None:
        """How it speculates; None if it does not.

        Raises:
            InputError: ``speculative_config`` cannot be used.
        """
        given = self.speculative_config
        return None if given is None else Speculation.from_options(given)

    @property
    def longest(self) -> int:
        """Most tokens of a sequence."""
        given = self.max_model_len
        return sys.maxsize if given is None or given == FITTING else given

    @property
    def limits(self) -> StepLimits:
        """The limits of a step; where neither option is given, those of a small device."""
        sequences, tokens = self.max_num_seqs, self.max_num_batched_tokens
        default = vllm_defaults.SMALL
        if sequences is None:
            sequences = min(default.max_num_seqs, tokens or default.max_num_seqs)
        if tokens is None:
            tokens = max(default.max_num_batched_tokens, sequences)
        return StepLimits(sequences, tokens)

    def on(self, memory_bytes: float, device: str) -> EngineConfig:
        """This config with vLLM's limits for ``device`` where none are given."""
        default = vllm_defaults.step_limits(memory_bytes, device)
        sequences = self.max_num_seqs or default.max_num_seqs
        tokens = self.max_num_batched_tokens or max(default.max_num_batched_tokens, sequences)
        if self.max_num_seqs is None:
            sequences = min(sequences, tokens)
        return replace(self, max_num_seqs=sequences, max_num_batched_tokens=tokens)

    @property
    def cudagraph_capture_sizes(self) -> tuple[int, ...]:
        """Token counts that smaller steps are padded to; none when ``enforce_eager``."""
        if self.enforce_eager:
            return ()
        most = self.limits.max_num_batched_tokens
        return tuple(n for n in vllm_defaults.capture_sizes(self.limits.max_num_seqs) if n <= most)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> EngineConfig:
        """A config from options by name, as a scenario file gives them.

        Raises:
            UnknownNameError: no such option.
            InputError: a value cannot be used.
        """
        require_known("engine option", options, cls)
        return cls(**options)


def _require_int(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, not {value}")
