"""Names of number formats and variants that coefficients are kept under."""

from __future__ import annotations

from servesim.graph.work import AttentionWork, GemmWork, MoeWork

#: Bytes of scales beyond this share of an FP8 matrix mean a scale a block, not a channel.
_BLOCK_SCALES = 1e-4


def gemm_key(work: GemmWork) -> str:
    """Format of the weights; ``fp8_block`` when blocks of them have scales."""
    return _weight_key(work.weight, work.scale_bytes, work.batch * work.n * work.k)


def moe_key(work: MoeWork) -> str:
    """As :func:`gemm_key`."""
    elements = work.matrices * work.hidden * work.intermediate
    return _weight_key(work.weight, work.scale_bytes_per_expert, elements)


def _weight_key(weight: str, scale_bytes: float, elements: float) -> str:
    if weight == "fp8" and scale_bytes > _BLOCK_SCALES * elements:
        return "fp8_block"
    return "bf16" if weight == "fp16" else weight


def attention_key(work: AttentionWork) -> str:
    """Format of the cache and width of a head, e.g. ``bf16_128``.

    MLA has ``bf16_latent`` for decodes and ``bf16_192_expanded`` for prefills, whose values are
    narrower than their keys and no KV head is shared.
    """
    cache = "bf16" if work.kv_dtype == "fp16" else work.kv_dtype
    if work.latent:
        return f"{cache}_latent"
    expanded = work.value_dim < work.head_dim and work.heads == work.kv_heads
    return f"{cache}_{work.head_dim}{'_expanded' if expanded else ''}"
