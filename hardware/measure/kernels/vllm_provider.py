"""vLLM's own layers and CPU kernels, called as its models call them."""

from __future__ import annotations

from collections.abc import Mapping

from servesim.hardware.measure.bench import Maker
from servesim.hardware.measure.kernels.vllm_attention import attention
from servesim.hardware.measure.kernels.vllm_experts import Experts
from servesim.hardware.measure.kernels.vllm_latent import Absorbed
from servesim.hardware.measure.kernels.vllm_layers import (
    Linear,
    embedding,
    norm,
    pointwise,
    sampler,
)
from servesim.hardware.measure.kernels.vllm_recurrent import Recurrent


def makers() -> Mapping[str, Maker]:
    """By kind of operator."""
    return {
        "gemm": Linear,
        "lm_head": Linear,
        "latent_expand": Linear,
        "batched_gemm": Absorbed,
        "attention": attention,
        "norm": norm,
        "pointwise": pointwise,
        "embedding": embedding,
        "sampler": sampler,
        "experts": Experts,
        "recurrent": Recurrent,
    }
