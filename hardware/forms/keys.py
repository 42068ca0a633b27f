"""Names of number formats and variants that coefficients are kept under."""

from __future__ import annotations

from servesim.graph.work import AttentionWork, GemmWork, MoeWork


def gemm_key(work: GemmWork | MoeWork) -> str:
    """Format of the weights of a dense product, or of experts."""
    return "bf16" if work.weight == "fp16" else work.weight


moe_key = gemm_key


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


def form_kind(family: str, key: str) -> str:
    """Name of the form behind ``[calibration.<family>.<key>]``: latent attention has its own."""
    if family == "decode" and key.endswith("_latent"):
        return "latent_decode"
    if family == "prefill" and key.endswith("_expanded"):
        return "latent_prefill"
    return family
