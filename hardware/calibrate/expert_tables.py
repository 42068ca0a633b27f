"""Rows from tables of routed experts in AIConfigurator's layout."""

from __future__ import annotations

from statistics import median
from typing import Any

from servesim.graph.work import MoeWork
from servesim.hardware.calibrate.expected import rank_load
from servesim.hardware.calibrate.formats import BLOCK, FORMATS
from servesim.hardware.calibrate.row import Row, resident_share
from servesim.hardware.forms.keys import moe_key

#: (hidden, width of an expert) of models whose experts have no gate: Nemotron 3.
_UNGATED = {(2688, 1856), (4096, 2688), (1024, 2688), (2048, 5120)}
#: Older benchmarks ran all experts with a gate; the kernel's name tells them.
_ALWAYS_GATED = ("vllm_fused_moe", "vllm_marlin_int4_moe", "vllm_flashinfer_trtllm_moe_fp4")
#: vLLM's Triton kernel, and the first version whose default settings go by tokens alone.
_TRITON, _BY_TOKENS = "vllm_fused_moe", (0, 17)
#: Parts of kernels' names that are names of tilings.
_NAMED = ("marlin", "trtllm")
_SAME_BUT_RANKS = (
    *("moe_dtype", "hidden_size", "inter_size", "topk", "num_experts"),
    *("moe_tp_size", "distribution"),
)
#: Pairs on the busiest rank of a power law up to which old benchmarks, without ``balanced`` rows,
#: do not tell which experts were touched: they dealt what rounding lost to the heaviest ones.
_FEW_PAIRS = 32


def moe_rows(table: list[dict[str, Any]], origin: str, cache_bytes: float = 0.0) -> list[Row]:
    """Routed experts: num_tokens, hidden_size, inter_size, topk, num_experts, moe_tp/ep_size.

    The benchmark runs the same experts over and over, without others in between.
    """
    old = all(str(r["distribution"]).startswith("power_law") for r in table)
    return [_row(r, origin, old, cache_bytes) for r in _with_honest_ranks(table)]


def _with_honest_ranks(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``table``, of formats whose benchmark ran all experts on every rank without sharded rows.

    It did when most of the largest batches take as long on one of many ranks as on a single one.
    """
    largest = max((r["num_tokens"] for r in table), default=0)
    by_ranks: dict[tuple[Any, ...], dict[int, float]] = {}
    for r in table:
        if r["num_tokens"] == largest:
            same = (*(r[name] for name in _SAME_BUT_RANKS),)
            by_ranks.setdefault(same, {})[int(r["moe_ep_size"])] = r["latency"]
    ratios: dict[str, list[float]] = {}
    for same, latency in by_ranks.items():
        if 1 in latency and len(latency) > 1:
            ratios.setdefault(same[0], []).append(latency[max(latency)] / latency[1])
    whole = {dtype for dtype, found in ratios.items() if median(found) > 0.9}
    return [r for r in table if r["moe_ep_size"] == 1 or r["moe_dtype"] not in whole]


def _row(r: dict[str, Any], origin: str, old: bool, cache_bytes: float) -> Row:
    dtype, weight = FORMATS[str(r["moe_dtype"])]
    experts, tokens, top_k = int(r["num_experts"]), int(r["num_tokens"]), int(r["topk"])
    hidden, whole, ranks = int(r["hidden_size"]), int(r["inter_size"]), int(r["moe_ep_size"])
    spread, width = str(r["distribution"]), whole // int(r["moe_tp_size"])
    load = rank_load(tokens, experts, top_k, ranks, spread)
    block_scaled = r["moe_dtype"] == "fp8_block"
    gated = (hidden, whole) not in _UNGATED or r.get("kernel_source") in _ALWAYS_GATED
    matrices = 3 if gated else 2
    work = MoeWork(
        tokens=tokens,
        pairs=load.pairs,
        touched=load.touched,
        experts=experts // ranks,
        top_k=top_k,
        hidden=hidden,
        intermediate=width,
        gated=gated,
        dtype=dtype,
        weight=weight,
        scale_bytes_per_expert=4.0 * matrices * hidden * width / BLOCK if block_scaled else 0.0,
        distribution=spread,
    )
    resident = resident_share(work.touched * work.expert_bytes, cache_bytes)
    uncertain = old and ranks > 1 and load.pairs < _FEW_PAIRS
    return Row(
        work,
        r["latency"] * 1e-3,
        f"moe.{moe_key(work)}",
        f"{hidden}x{whole}:{experts}/{top_k}",
        origin,
        regime=_regime(work, ranks, uncertain, resident),
        ranks=ranks,
        resident=resident,
        tiling=_tiling(str(r.get("kernel_source", "")), weight, origin),
    )


def _regime(work: MoeWork, ranks: int, uncertain: bool, resident: float) -> str:
    if uncertain:
        return "outside serving sizes (few pairs, dealt in an unknown way)"
    if work.intermediate % 64 or ranks > 32:
        return "outside serving sizes (odd widths, over 32 ranks)"
    if 0.02 < resident < 0.98:
        return "weights partly in cache"
    return "serving" if work.tokens <= 8192 else "over 8192 tokens"


def _tiling(kernel: str, weight: str, origin: str) -> str:
    """What chose the tiles of ``kernel``, in the vLLM of ``origin`` (``vllm-0.19.0``); or empty."""
    if kernel != _TRITON:
        return next((name for name in _NAMED if name in kernel), "")
    if weight == "fp8_block":
        return "triton_block"
    version = [int(part) for part in origin.removeprefix("vllm-").split(".") if part.isdecimal()]
    return "triton_early" if version and tuple(version[:2]) < _BY_TOKENS else "triton"
