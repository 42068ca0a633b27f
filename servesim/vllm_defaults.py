"""What vLLM chooses when an option is not given (v0.19, ``vllm/engine/arg_utils.py``)."""

from __future__ import annotations

from typing import NamedTuple

from servesim.units import GIB

#: From this much memory on a server takes larger steps, unless the device is an A100.
LARGE_DEVICE_BYTES = 70 * GIB
#: A ``max_model_len`` that is to be what the KV cache holds, up to the model's own limit.
FITTING = -1


class StepLimits(NamedTuple):
    """Most sequences running at once, and most new tokens in a step."""

    max_num_seqs: int
    max_num_batched_tokens: int


SMALL, LARGE = StepLimits(256, 2048), StepLimits(1024, 8192)


def step_limits(memory_bytes: float, device: str = "") -> StepLimits:
    """The limits of an OpenAI-compatible server on ``device`` (``get_batch_defaults``)."""
    large = memory_bytes >= LARGE_DEVICE_BYTES and "a100" not in device.lower()
    return LARGE if large else SMALL


def capture_sizes(max_num_seqs: int) -> tuple[int, ...]:
    """Token counts for which CUDA graphs are captured: up to twice the sequences, or 512."""
    largest = min(2 * max_num_seqs, 512)
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
    return tuple(size for size in sizes if size <= largest)
