"""torch's own kernels: they run on any device, and stand for an engine that uses them."""

from __future__ import annotations

from collections.abc import Mapping

from servesim.hardware.measure.bench import Maker
from servesim.hardware.measure.kernels.attention import Attention
from servesim.hardware.measure.kernels.gemm import Batched, linear
from servesim.hardware.measure.kernels.memory import embedding, norm, pointwise, sampler
from servesim.hardware.measure.kernels.moe import Experts
from servesim.hardware.measure.kernels.recurrent import Recurrent


def makers() -> Mapping[str, Maker]:
    """By kind of operator."""
    return {
        "gemm": linear,
        "lm_head": linear,
        "latent_expand": linear,
        "batched_gemm": Batched,
        "attention": Attention,
        "norm": norm,
        "pointwise": pointwise,
        "embedding": embedding,
        "sampler": sampler,
        "experts": Experts,
        "recurrent": Recurrent,
    }
