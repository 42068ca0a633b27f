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
        ({"gpu_memory_utilization": 1.1}, r"in \(0, 1\], not 1.1"),
        ({"kv_cache_dtype": "fp9"}, "unknown dtype 'fp9'"),
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
    assert SCHEDULERS.names() == ("fcfs", "priority")
