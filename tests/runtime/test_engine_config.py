"""Engine options and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from servesim.errors import InputError
from servesim.runtime.config import EngineConfig
from servesim.runtime.schedulers import SCHEDULERS


def test_options_by_name() -> None:
    config = EngineConfig.from_options({"max_num_seqs": 4, "kv_cache_dtype": "fp8"})
    assert (config.max_num_seqs, config.kv_cache_dtype, config.block_size) == (4, "fp8", 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_seq": 4}, "did you mean 'max_num_seqs'"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, not 0"),
        ({"max_num_seqs": "4"}, "max_num_seqs must be a whole number, not '4'"),
        ({"block_size": True}, "block_size must be a whole number, not True"),
        ({"max_model_len": 0}, "max_model_len must be at least 1"),
        ({"num_gpu_blocks_override": 1}, "num_gpu_blocks_override must be at least 2"),
        ({"prefix_cache_retention_interval": -1}, "must be at least 0, not -1"),
        ({"gpu_memory_utilization": 1.1}, r"in \(0, 1\], not 1.1"),
        ({"kv_cache_dtype": "fp9"}, "unknown dtype 'fp9'"),
        ({"kv_cache_dtype": "fp32"}, "unknown kv_cache_dtype 'fp32'"),
        ({"max_lora_rank": 17}, "max_lora_rank must be one of .*, not 17"),
        ({"max_num_seqs": 9, "max_num_batched_tokens": 8}, "at least max_num_seqs"),
        ({"long_prefill_token_threshold": -1}, "must be at least 0"),
        (
            {"enable_chunked_prefill": False, "max_model_len": 9000},
            "without chunked prefill max_num_batched_tokens",
        ),
        ({"scheduling_policy": "fcsf"}, "did you mean 'fcfs'"),
    ],
)
def test_options_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EngineConfig.from_options(options)


def test_policies_known() -> None:
    own = "transformers-fifo", "transformers-fifo-5.17", "transformers-prefill-first"
    assert SCHEDULERS.names() == ("fcfs", "priority", *own)


def test_limits_are_vllms_for_the_device_unless_given() -> None:
    config = EngineConfig()
    assert config.on(80 * 2**30, "h100_sxm").limits == (1024, 8192)
    assert config.on(80 * 2**30, "a100_sxm").limits == (256, 2048)
    assert config.on(24 * 2**30, "l4").limits == (256, 2048)
    given = EngineConfig(max_num_seqs=7, max_num_batched_tokens=99)
    assert given.on(80 * 2**30, "h100_sxm").limits == (7, 99)


def test_sequences_never_outnumber_the_tokens_of_a_step() -> None:
    few = EngineConfig(max_num_batched_tokens=32)
    assert few.limits == (32, 32)
    assert few.on(80 * 2**30, "h100_sxm").limits == (32, 32)
    many = EngineConfig(max_num_seqs=4000)
    assert many.on(24 * 2**30, "l4").limits == (4000, 4000)
