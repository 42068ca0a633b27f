"""Rows from kernel tables in AIConfigurator's layout: one parquet or CSV a family, ms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, cast

from servesim.errors import InputError
from servesim.graph.work import AttentionWork, GemmWork, RecurrentWork
from servesim.hardware.calibrate.expert_tables import moe_rows
from servesim.hardware.calibrate.formats import BLOCK, FORMATS
from servesim.hardware.calibrate.records import (
    read_frame,
    require_counts,
    require_names,
    require_times,
)
from servesim.hardware.calibrate.row import Row, resident_share
from servesim.hardware.forms.keys import attention_key, gemm_key

Table = list[dict[str, Any]]

#: Matrices a GEMM benchmark cycles through between two uses of one.
GEMM_COPIES = 6
#: Columns that count at least one of something, of any table.
_COUNTS = (
    *("m", "n", "k", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts"),
    *("moe_tp_size", "moe_ep_size", "batch_size", "isl", "num_heads"),
    *("num_key_value_heads", "head_dim", "seq_len", "d_model", "d_conv", "num_k_heads"),
    *("head_k_dim", "num_v_heads", "head_v_dim", "tp_size"),
)
_TABLES = (
    "gemm_perf",
    "generation_attention_perf",
    "context_attention_perf",
    "moe_perf",
    "gdn_perf",
)


def kernel_table_files(folder: Path) -> list[Path]:
    """The tables below ``folder`` that ``kernel_rows`` reads."""
    return [path for path in sorted(folder.rglob("*_perf.*")) if path.stem in _TABLES]


def kernel_rows(folder: Path, cache_bytes: float) -> list[Row]:
    """All rows of the ``*_perf`` tables below ``folder``.

    Raises:
        InputError: no table there, or one cannot be read, lacks a column or holds a bad value.
    """
    readers = {
        "gemm_perf": gemm_rows,
        "generation_attention_perf": decode_rows,
        "context_attention_perf": prefill_rows,
        "moe_perf": moe_rows,
        "gdn_perf": recurrent_rows,
    }
    paths = kernel_table_files(folder)
    if not paths:
        raise InputError(f"{folder}: no kernel tables ({', '.join(_TABLES)})")
    rows: list[Row] = []
    for path in paths:
        try:
            rows += readers[path.stem](read_records(path), path.parent.name, cache_bytes)
        except KeyError as error:
            raise InputError(f"{path}: no column {error}") from error
    return rows


def read_records(path: Path) -> Table:
    """The rows of a table file; of equal measurements the median.

    Raises:
        InputError: the file cannot be read, has no rows or holds a bad value.
    """
    table = read_frame(path)
    require_times(table, "latency", path)
    require_counts(table, _COUNTS, path, least=1)
    require_counts(table, ("step", "window_size"), path)
    for column in ("gemm_dtype", "moe_dtype"):
        require_names(table, column, FORMATS, path)
    ignored = {"latency", "framework", "version", "device", "op_name"}
    keys = [c for c in table.columns if c not in ignored]
    medians = table.groupby(keys, dropna=False)["latency"].median().reset_index()
    return cast("Table", medians.to_dict("records"))


def gemm_rows(table: Table, origin: str, cache_bytes: float) -> list[Row]:
    """Dense products: gemm_dtype, m, n, k, latency."""
    rows = []
    for r in table:
        dtype, weight = FORMATS[str(r["gemm_dtype"])]
        scales = 4.0 * r["n"] * r["k"] / BLOCK if r["gemm_dtype"] == "fp8_block" else 0.0
        work = GemmWork(int(r["m"]), int(r["n"]), int(r["k"]), dtype, weight, scale_bytes=scales)
        resident = resident_share(GEMM_COPIES * work.weight_bytes, cache_bytes)
        rows.append(
            Row(
                work,
                r["latency"] * 1e-3,
                f"gemm.{gemm_key(work)}",
                f"{r['n']}x{r['k']}",
                origin,
                resident=resident,
                regime=gemm_regime(work, resident),
            )
        )
    return rows


def gemm_regime(work: GemmWork, resident: float = 0.0) -> str:
    """Where a product belongs in the error table; sizes of serving are split by rows."""
    if min(work.n, work.k) < 512 or work.m > 8192:
        return "outside serving sizes"
    if 0.02 < resident < 0.98:
        return "weights partly in cache"
    for rows in (64, 512, 8192):
        if work.m <= rows:
            return f"m to {rows}"
    raise AssertionError(work.m)


def _kv_dtype(name: str) -> str:
    return "fp8" if name == "fp8" else "bf16"


def _with_honest_windows(table: Table, length: str) -> Table:
    """``table``, without windowed rows if its benchmark did not apply the windows.

    It did not when most contexts of eight windows and more take as long as without a window.
    """
    sizes = ("batch_size", "num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype")
    full = {
        (r[length], *(r[s] for s in sizes)): r["latency"] for r in table if not r.get("window_size")
    }
    ratios = []
    for r in table:
        window = r.get("window_size") or 0
        key = (r[length], *(r[s] for s in sizes))
        if window and r[length] >= 8 * window and key in full:
            ratios.append(r["latency"] / full[key])
    if ratios and median(ratios) > 0.9:
        return [r for r in table if not r.get("window_size")]
    return table


def decode_rows(table: Table, origin: str, cache_bytes: float) -> list[Row]:
    """Decode attention: batch_size, step (context), heads, head_dim, window_size."""
    rows = []
    for r in _with_honest_windows(table, "step"):
        window = int(r.get("window_size") or 0) or None
        keys = int(r["step"]) + 1 if window is None else min(int(r["step"]) + 1, window)
        work = AttentionWork(
            (),
            int(r["batch_size"]),
            int(r["batch_size"]) * keys,
            keys,
            int(r["num_heads"]),
            int(r["num_key_value_heads"]),
            int(r["head_dim"]),
            int(r["head_dim"]),
            kv_dtype=_kv_dtype(str(r["kv_cache_dtype"])),
            window=window,
        )
        resident = resident_share(work.decode_keys * work.kv_bytes_per_token, cache_bytes)
        serving = work.decodes <= 256 and keys <= 32768 and not 0.02 < resident < 0.98
        rows.append(
            Row(
                work,
                r["latency"] * 1e-3,
                f"decode.{attention_key(work)}",
                f"{work.heads}/{work.kv_heads}x{work.head_dim}w{window or 0}",
                origin,
                resident=resident,
                regime="serving" if serving else "outside serving sizes or partly in cache",
            )
        )
    return rows


def prefill_rows(table: Table, origin: str, cache_bytes: float) -> list[Row]:
    """Prefill attention: batch_size, isl (new tokens), step (context before), heads, window."""
    rows = []
    for r in _with_honest_windows(table, "isl"):
        if r["isl"] <= 1:
            continue
        window = int(r.get("window_size") or 0) or None
        work = AttentionWork(
            ((int(r["isl"]), int(r["step"])),) * int(r["batch_size"]),
            0,
            0,
            0,
            int(r["num_heads"]),
            int(r["num_key_value_heads"]),
            int(r["head_dim"]),
            int(r["head_dim"]),
            kv_dtype=_kv_dtype(str(r["kv_cache_dtype"])),
            window=window,
        )
        rows.append(
            Row(
                work,
                r["latency"] * 1e-3,
                f"prefill.{attention_key(work)}",
                f"{work.heads}/{work.kv_heads}x{work.head_dim}w{window or 0}",
                origin,
                regime="serving" if work.query_tokens <= 8192 else "over 8192 tokens",
            )
        )
    return rows


def recurrent_rows(table: Table, origin: str, cache_bytes: float) -> list[Row]:
    """Gated delta net: the recurrence and its short convolution, prefill and decode."""
    return _with_honest_channels(list(_recurrent(table, origin)))


def _with_honest_channels(rows: list[Row]) -> list[Row]:
    """``rows``, without updates of convolutions if their benchmark gave all models equal channels.

    It did when the largest batch takes no longer for half as many channels again.
    """
    updates = [row for row in rows if row.form == "recurrent.short_conv" and _work(row).decodes]
    largest = max((_work(row).decodes for row in updates), default=0)
    of_it = sorted(
        (row for row in updates if _work(row).decodes == largest), key=lambda r: _work(r).heads
    )
    if not of_it or _work(of_it[-1]).heads < 1.5 * _work(of_it[0]).heads:
        return rows
    if of_it[-1].seconds > 1.1 * of_it[0].seconds:
        return rows
    return [row for row in rows if row not in updates]


def _work(row: Row) -> RecurrentWork:
    assert isinstance(row.work, RecurrentWork)
    return row.work


def _recurrent(table: Table, origin: str) -> Iterator[Row]:
    for r in table:
        convolution = str(r["kernel_source"]).startswith("causal_conv1d")
        keys, values = int(r["num_k_heads"]), int(r["num_v_heads"])
        dim, value_dim = int(r["head_k_dim"]), int(r["head_v_dim"])
        channels = 2 * keys * dim + values * value_dim
        if convolution:
            recurrence, heads = "short_conv", channels
            flops, elements = 2.0 * channels * r["d_conv"], 2.0 * channels
            state = 2.0 * channels * (r["d_conv"] - 1)
        else:
            recurrence, heads = "gated_delta", values
            flops = 6.0 * values * dim * value_dim
            elements = float(channels + values * value_dim + 2 * values)
            state = 4.0 * values * dim * value_dim
        decode = str(r["phase"]) == "generation"
        work = RecurrentWork(
            recurrence=recurrence,
            prefill_tokens=0 if decode else int(r["num_tokens"]),
            prefills=0 if decode else int(r["batch_size"]),
            decodes=int(r["batch_size"]) if decode else 0,
            heads=heads,
            key_dim=dim,
            value_dim=value_dim,
            flops_per_token=flops,
            token_bytes=2.0 * elements,
            state_bytes=state,
        )
        yield Row(
            work,
            r["latency"] * 1e-3,
            f"recurrent.{recurrence}",
            f"{keys}/{values}",
            origin,
            regime="decode" if decode else "prefill",
        )
