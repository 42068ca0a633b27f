"""Rows from layer latencies of one model in LLMServingSim's layouts (CSV, µs or ns)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

from servesim.errors import InputError
from servesim.graph.batch import BatchShape
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.norm import Norm
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.ops.sampler import Sampler
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, Work
from servesim.hardware.calibrate.geometry import Geometry
from servesim.hardware.calibrate.kernel_tables import gemm_regime
from servesim.hardware.calibrate.records import read_frame, require_counts, require_times
from servesim.hardware.calibrate.row import Row
from servesim.hardware.cost import GRAPH_GAP_S
from servesim.hardware.forms.keys import attention_key, gemm_key

Table = list[dict[str, Any]]


class _Layout(NamedTuple):
    """Columns of a layer table, seconds in its unit of time, and what its times leave out."""

    layer: str
    rows: str
    latency: str
    unit: float
    gap: float


#: The newer layout gives the durations of kernels alone. Forms stand for kernels one after another
#: in a CUDA graph, as kernel benchmarks time them, so the gap to the next one is added.
_V0 = _Layout("layer_name", "input", "latency(ns)", 1e-9, 0.0)
_V1 = _Layout("layer", "tokens", "time_us", 1e-6, GRAPH_GAP_S)
_V1_SEQUENCES = _Layout("layer", "sequences", "time_us", 1e-6, GRAPH_GAP_S)

#: Columns of times and of counts, of any file.
_TIMES = ("latency(ns)", "time_us", "p50_ns", "t_mean_us", "t_max_us", "t_skew_us")
_COUNTS = (
    *("input", "tokens", "sequences", "prefill_chunk", "kv_prefill", "n_decode", "kv_decode"),
    *("pc", "n", "nb", "kp", "kvs", "kv_big", "batch_size", "kv_cache_size", "prefill_chunk_size"),
)
#: Keys of all decodes of a batch together, over KV heads, that a device's memory can hold.
_MOST_KEYS = 5_000_000
#: ``skew.csv`` gives the sum of this many launches: its uniform batches take three times what
#: ``attention.csv`` says.
_SKEW_REPEATS = 3


def layer_rows(folder: Path, model: str, geometry: Geometry, ranks: int) -> list[Row]:
    """All rows of one ``tp<ranks>`` folder, in either version of the layout.

    Raises:
        InputError: a file cannot be read, lacks a column or holds a bad value.
    """
    try:
        return _layer_rows(folder, model, geometry, ranks)
    except KeyError as error:
        raise InputError(f"{folder}: a table has no column {error}") from error


def _layer_rows(folder: Path, model: str, geometry: Geometry, ranks: int) -> list[Row]:
    works = _layers(geometry, ranks)
    shard = f"{model} tp{ranks}"
    rows: list[Row] = []
    if (folder / "layers.csv.gz").exists():
        rows += _layer_file(_csv(folder / "layers.csv.gz"), works, model, _V0)
        rows += _attention_v0(_csv(folder / "attention.csv.gz"), geometry, ranks, model)
        return rows
    rows += _layer_file(_csv(folder / "dense.csv"), works, model, _V1)
    rows += _layer_file(_csv(folder / "per_sequence.csv"), works, model, _V1_SEQUENCES)
    for r in _csv(folder / "attention.csv"):
        prefills = ((int(r["prefill_chunk"]), int(r["kv_prefill"])),) if r["prefill_chunk"] else ()
        keys = int(r["n_decode"]) * (int(r["kv_decode"]) + 1)
        longest = int(r["kv_decode"]) + 1 if r["n_decode"] else 0
        work = _attention(geometry, ranks, prefills, (int(r["n_decode"]), keys, longest))
        rows += _attention_row(work, r["time_us"] * 1e-6 + GRAPH_GAP_S, shard, model)
    rows += _skewed(_csv(folder / "skew.csv"), geometry, ranks, model)
    return rows


def _csv(path: Path) -> Table:
    """The rows of a file whose times and counts are such.

    Raises:
        InputError: it cannot be read, has no rows or holds a bad value.
    """
    table = read_frame(path)
    for column in _TIMES:
        if column in table.columns:
            require_times(table, column, path)
    require_counts(table, _COUNTS, path)
    return cast("Table", table.to_dict("records"))


def _layers(g: Geometry, ranks: int) -> Mapping[str, Callable[[int], Work]]:
    """Work of each layer by tokens (sequences for lm_head and sampler) on one of ``ranks``."""
    heads, kv_heads = g.heads // ranks, max(1, g.kv_heads // ranks)
    width, vocab = g.intermediate // ranks, g.vocab // ranks
    queries, keys = heads * g.head_dim, kv_heads * g.head_dim

    def gemm(n: int, k: int) -> Callable[[int], Work]:
        return lambda m: GemmWork(m, n, k)

    def memory(spec: Norm | Pointwise | Embedding | Sampler) -> Callable[[int], Work]:
        return lambda m: spec.work(BatchShape.of([(m, 0)] if _by_token(spec) else [(2, 0)] * m), "")

    norm = memory(Norm(g.hidden, addends=1, weights=g.hidden))
    qk_norm = memory(Norm(g.head_dim, groups=heads + kv_heads, weights=2 * g.head_dim))
    # ``layernorm`` of the newer layout averages a plain norm with those that add a residual, and
    # ``qk_norm`` is the same for any number of ranks: only of one rank do its sizes hold.
    gemms = {
        "qkv_proj": gemm(queries + 2 * keys, g.hidden),
        "q_proj": gemm(queries, g.hidden),
        "k_proj": gemm(keys, g.hidden),
        "v_proj": gemm(keys, g.hidden),
        "o_proj": gemm(g.hidden, queries),
        "gate_up_proj": gemm(2 * width, g.hidden),
        "gate_proj": gemm(width, g.hidden),
        "up_proj": gemm(width, g.hidden),
        "down_proj": gemm(g.hidden, width),
        "lm_head": gemm(vocab, g.hidden),
    }
    return gemms | {
        "input_layernorm": norm,
        "post_layernorm": norm,
        "final_layernorm": norm,
        **({"qk_norm": qk_norm} if ranks == 1 else {}),
        "act_fn": memory(Pointwise("activation", 2.0 * width, width)),
        "rotary_emb": memory(Pointwise("rotary", queries + keys, queries + keys)),
        "rope": memory(Pointwise("rotary", queries + keys, queries + keys)),
        "embedding": memory(Embedding(g.vocab, g.hidden)),
        "sampler": memory(Sampler(g.vocab)),
    }


def _by_token(spec: object) -> bool:
    return not isinstance(spec, Sampler)


def _layer_file(
    table: Table, works: Mapping[str, Callable[[int], Work]], model: str, layout: _Layout
) -> list[Row]:
    latencies: dict[tuple[str, int], list[float]] = {}
    for r in table:
        key = str(r[layout.layer]), int(r[layout.rows])
        seconds = float(r[layout.latency]) * layout.unit + layout.gap
        latencies.setdefault(key, []).append(seconds)
    rows = []
    for (layer, count), measured in latencies.items():
        if layer not in works or _fused(layer, count, latencies):
            continue
        work = works[layer](count)
        if isinstance(work, GemmWork):
            form, shape, regime = f"gemm.{gemm_key(work)}", f"{work.n}x{work.k}", gemm_regime(work)
        else:
            assert isinstance(work, MemoryWork)
            form, shape, regime = f"memory.{work.kernel}", "", layer
        rows.append(Row(work, median(measured), form, shape, model=model, regime=regime))
    return rows


def _fused(layer: str, count: int, latencies: Mapping[tuple[str, int], object]) -> bool:
    """Whether a compiler made one kernel of ``down_proj`` and the ``up_proj`` before it."""
    split = ("gate_proj", count) in latencies
    return layer == "down_proj" and split and ("up_proj", count) not in latencies


def _attention(
    g: Geometry,
    ranks: int,
    prefills: tuple[tuple[int, int], ...],
    decodes: tuple[int, int, int],
) -> AttentionWork:
    heads, kv_heads = g.heads // ranks, max(1, g.kv_heads // ranks)
    return AttentionWork(prefills, *decodes, heads, kv_heads, g.head_dim, g.head_dim)


def _attention_row(
    work: AttentionWork, seconds: float, shape: str, model: str, regime: str = ""
) -> list[Row]:
    """The row, unless its caches would not fit any device."""
    if work.decode_keys * work.kv_heads > _MOST_KEYS:
        return []
    kind = "decode" if not work.prefills else "mixed" if work.decodes else "prefill"
    form = f"{'decode' if kind == 'decode' else 'prefill'}.{attention_key(work)}"
    return [Row(work, seconds, form, shape, model=model, regime=regime or kind)]


def _skewed(table: Table, g: Geometry, ranks: int, model: str) -> list[Row]:
    """Decodes of unequal context: ``nb`` long ones of ``kv_big`` among ``n``."""
    rows = []
    for r in table:
        big, small = int(r["kv_big"]), int(r["kvs"])
        count = int(r["nb"])
        keys = count * (big + 1) + (int(r["n"]) - count) * (small + 1)
        prefills = ((int(r["pc"]), int(r["kp"])),) if r["pc"] else ()
        work = _attention(g, ranks, prefills, (int(r["n"]), keys, big + 1))
        kind = "mixed, unequal" if prefills else "decode, unequal"
        seconds = r["t_skew_us"] * 1e-6 / _SKEW_REPEATS + GRAPH_GAP_S
        rows += _attention_row(work, seconds, f"{model} tp{ranks}", model, kind)
    return rows


def _attention_v0(table: Table, g: Geometry, ranks: int, model: str) -> list[Row]:
    """Attention of the older layout: microbenchmarks in ms on GPUs, traces in ns on TPUs.

    The GPU benchmark's decodes (of ``kv_cache_size`` keys together) read the keys once for each
    query head, as no serving engine does any more: they are left out.
    """
    rows = []
    for r in table:
        prefill = str(r["is_prefill"]) == "True"
        count, context = int(r["batch_size"]), int(r["kv_cache_size"])
        if "p50_ns" in r:
            seconds = r["p50_ns"] * 1e-9
        elif prefill:
            seconds = r["time_stats.attn_prefill.median"] * 1e-3
        else:
            continue
        if prefill:
            prefills = ((int(r["prefill_chunk_size"]), context),) * count
            work = _attention(g, ranks, prefills, (0, 0, 0))
        else:
            work = _attention(g, ranks, (), (count, count * (context + 1), context + 1))
        rows += _attention_row(work, seconds, f"{model} tp{ranks}", model)
    return rows
