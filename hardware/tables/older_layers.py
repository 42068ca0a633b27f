"""Layer latencies in two older layouts: LLMServingSim's first version, and Vidur's.

LLMServingSim v0: ``tp<N>/layers.csv`` (layer_name, input, latency(ns)) and ``attention.csv``.
Vidur: ``mlp.csv`` and ``attention.csv`` with a column for the tensor-parallel degree, times in
milliseconds in columns ``time_stats.<operator>.median``. Both measured prefills and decodes apart;
files may be gzipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.tables.attention import PhaseGrid
from servesim.hardware.tables.csvfile import Row, count, read_csv, seconds
from servesim.hardware.tables.grid import Curve

#: What the layouts call the parts of each serving kernel; parts run one after the other.
V0_PARTS: Mapping[str, Sequence[str]] = {
    "embedding": ("embedding",),
    "layernorm": ("input_layernorm",),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "rotary_emb": ("rope",),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "act_fn": ("act_fn",),
    "down_proj": ("down_proj",),
    "final_layernorm": ("final_layernorm",),
    "lm_head": ("lm_head",),
}
VIDUR_PARTS: Mapping[str, Sequence[str]] = {
    "embedding": ("emb",),
    "layernorm": ("input_layernorm", "add"),
    "qkv_proj": ("attn_pre_proj",),
    "rotary_emb": ("attn_rope",),
    "o_proj": ("attn_post_proj",),
    "gate_up_proj": ("mlp_up_proj",),
    "act_fn": ("mlp_act",),
    "down_proj": ("mlp_down_proj",),
    "final_layernorm": ("input_layernorm", "add"),
}
#: Layers of LLMServingSim v0 that no operator is measured by.
_V0_OTHERS = ("attn", "post_layernorm")
_PREFILL, _DECODE = "time_stats.attn_prefill.median", "time_stats.attn_decode.median"


def existing(place: Path, name: str) -> Path:
    """``place/name``, or its gzipped form where only that exists."""
    path = place / name
    return path if path.is_file() else path.with_name(f"{name}.gz")


def v0_curves(place: Path) -> dict[str, Curve]:
    """Seconds by serving name over tokens, from ``layers.csv``.

    Raises:
        UnknownNameError: the layout has no such layer.
    """
    path, known = existing(place, "layers.csv"), _parts(V0_PARTS) | {*_V0_OTHERS}
    points: dict[str, list[tuple[float, float]]] = {}
    for layer, tokens, t in read_csv(
        path,
        lambda row: (row["layer_name"], count(row["input"], 1), seconds(row["latency(ns)"], 1e-9)),
    ):
        if layer not in known:
            raise UnknownNameError(f"layer in {path}:", layer, known)
        points.setdefault(layer, []).append((tokens, t))
    return _joined({name: Curve.of(found) for name, found in points.items()}, V0_PARTS)


def vidur_curves(place: Path, tensor_parallel_size: int) -> dict[str, Curve]:
    """Seconds by serving name over tokens, from ``mlp.csv``.

    Raises:
        InputError: the degree was not measured.
    """
    path = existing(place, "mlp.csv")
    rows = read_csv(path, _vidur_row)
    chosen = [(tokens, times) for ranks, tokens, times in rows if ranks == tensor_parallel_size]
    if not chosen:
        known = ", ".join(map(str, sorted({ranks for ranks, _, _ in rows})))
        raise InputError(
            f"{path}: no rows for tensor_parallel_size {tensor_parallel_size} (there: {known})"
        )
    points: dict[str, list[tuple[float, float]]] = {}
    for tokens, times in chosen:
        for part, t in times.items():
            points.setdefault(part, []).append((tokens, t))
    return _joined({part: Curve.of(found) for part, found in points.items()}, VIDUR_PARTS)


def _parts(layout: Mapping[str, Sequence[str]]) -> set[str]:
    return {part for names in layout.values() for part in names}


def _vidur_row(row: Row) -> tuple[int, int, dict[str, float]]:
    """Tensor-parallel degree, tokens, and seconds by part as far as they are given."""
    given = {part: row.get(f"time_stats.{part}.median") for part in sorted(_parts(VIDUR_PARTS))}
    times = {part: seconds(text, 1e-3) for part, text in given.items() if text}
    return count(row["num_tensor_parallel_workers"], 1), count(row["num_tokens"], 1), times


def phase_grid(place: Path, tensor_parallel_size: int) -> PhaseGrid:
    """Attention from ``attention.csv`` of either layout."""
    decode: dict[tuple[int, int], float] = {}
    prefill: dict[tuple[int, int], float] = {}
    for is_prefill, key, t in read_csv(existing(place, "attention.csv"), _attention_point):
        if key[0] == tensor_parallel_size:
            (prefill if is_prefill else decode)[key[1:]] = t
    return PhaseGrid.of(decode, prefill)


def _attention_point(row: Row) -> tuple[bool, tuple[int, int, int], float]:
    """Whether a prefill, (degree, chunk or decodes, context), seconds; batches of one prefill."""
    is_prefill = row["is_prefill"].lower() == "true"
    first = count(row["prefill_chunk_size" if is_prefill else "batch_size"], 1)
    if "p50_ns" in row:
        t = seconds(row["p50_ns"], 1e-9)
    else:
        t = seconds(row[_PREFILL if is_prefill else _DECODE], 1e-3)
    ranks = count(row.get("num_tensor_parallel_workers") or "1", 1)
    return is_prefill, (ranks, first, count(row["kv_cache_size"])), t


def _joined(curves: Mapping[str, Curve], kernels: Mapping[str, Sequence[str]]) -> dict[str, Curve]:
    """The sum of each kernel's measured parts, over the counts all of them reach.

    A part measured at one count only is left out: it says nothing of others.
    """
    found = {}
    for name, parts in kernels.items():
        present = [curves[p] for p in parts if p in curves and len(curves[p].xs) > 1]
        if not present:
            continue
        low, high = max(c.xs[0] for c in present), min(c.xs[-1] for c in present)
        counts = {x for c in present for x in c.xs if low <= x <= high}
        if counts:
            found[name] = Curve.of((x, sum(c.at(x) for c in present)) for x in sorted(counts))
    return found
