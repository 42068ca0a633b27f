"""Rows of latent attention (MLA) from the latencies of whole attention modules.

AIConfigurator times DeepSeek's attention from its input to its output: products, norms and rotary
embedding around the attention kernel. What a device's calibrated forms say of those is taken off;
the rest, with the copies and concatenations that no operator stands for, is attention's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.graph.batch import BatchShape
from servesim.graph.ops.norm import Norm
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.work import AttentionWork, GemmWork, Work
from servesim.hardware.calibrate.kernel_tables import Table, read_records
from servesim.hardware.calibrate.row import Row, resident_share
from servesim.hardware.cost import CostModel
from servesim.hardware.forms.keys import attention_key

#: DeepSeek-V2 and V3, before sharding: hidden size, ranks of queries and of keys and values, and
#: the widths of a head without and with rotary embedding and of its values (their config.json).
HIDDEN, QUERY_RANK, RANK, NOPE, ROPE, VALUE = 7168, 1536, 512, 128, 64, 128
#: Attention's least share of a module's time for the rest to tell it.
_LEAST_SHARE = 0.3
#: A latency this factor above that of a longer context was disturbed.
_DISTURBED = 1.1
#: Share of weights and latents in the last-level cache that makes a module another one.
_LEAST_RESIDENT = 0.02


def latent_rows(folder: Path, cache_bytes: float, costs: CostModel) -> list[Row]:
    """All rows of latent attention below ``folder``; ``costs`` of everything around it.

    A benchmark runs one module over and over: where its weights and latents stay in the
    last-level cache, it takes less than the module of a model.

    Raises:
        InputError: a table cannot be read, lacks a column or holds a bad value.
    """
    readers = {
        "mla_generation_module_perf": decode_module_rows,
        "mla_context_module_perf": prefill_module_rows,
        "generation_mla_perf": decode_kernel_rows,
    }
    rows: list[Row] = []
    for path in sorted(folder.rglob("*_perf.*")):
        if path.stem in readers:
            table = read_records(path)
            try:
                rows += readers[path.stem](table, path.parent.name, cache_bytes, costs)
            except KeyError as error:
                raise InputError(f"{path}: no column {error}") from error
    return rows


def decode_module_rows(
    table: Table, origin: str, cache_bytes: float, costs: CostModel
) -> list[Row]:
    """Decodes: batch_size sequences of ``step`` tokens before this one."""
    rows = []
    for r in _plain(table):
        count, keys = int(r["batch_size"]), int(r["step"]) + 1
        work = _decodes(r, count, keys)
        around = _around(count, work.heads, absorbed=True)
        weights = sum(other.weight_bytes for other in around if isinstance(other, GemmWork))
        cycled = weights + work.decode_keys * work.kv_bytes_per_token
        inside = resident_share(cycled, cache_bytes) < _LEAST_RESIDENT
        seconds = r["latency"] * 1e-3
        rows += _rest(work, seconds, _seconds(around, costs), origin, _regime(work, inside))
    return rows


def prefill_module_rows(
    table: Table, origin: str, cache_bytes: float, costs: CostModel
) -> list[Row]:
    """Prefills of batch_size sequences of ``isl`` tokens, keys and values expanded."""
    rows = []
    for r in _plain(table):
        if r["kv_cache_dtype"] == "fp8" or r["isl"] < 16:
            continue
        count, new, heads = int(r["batch_size"]), int(r["isl"]), int(r["num_heads"])
        prefills = ((new, int(r["step"])),) * count
        work = AttentionWork(prefills, 0, 0, 0, heads, heads, NOPE + ROPE, VALUE)
        others = _seconds(_around(count * new, heads, absorbed=False), costs)
        rows += _rest(work, r["latency"] * 1e-3, others, origin, _regime(work))
    return rows


def decode_kernel_rows(
    table: Table, origin: str, cache_bytes: float, costs: CostModel
) -> list[Row]:
    """Decodes timed without their module, but launched by the host: short ones tell nothing."""
    floor = min(r["latency"] for r in table)
    least: dict[tuple[Any, ...], float] = {}
    rows = []
    for r in sorted(table, key=lambda r: -int(r["step"])):
        key = (r["num_heads"], r["batch_size"], r["kv_cache_dtype"])
        shortest = least.setdefault(key, r["latency"])
        least[key] = min(shortest, r["latency"])
        if r["latency"] < 2.0 * floor or r["latency"] > _DISTURBED * shortest:
            continue
        work = _decodes(r, int(r["batch_size"]), int(r["step"]) + 1)
        rows += _rest(work, r["latency"] * 1e-3, 0.0, origin, _regime(work))
    return rows


def _plain(table: Table) -> Table:
    """Modules with 16-bit arithmetic."""
    return [r for r in table if r["gemm_type"] == r["mla_dtype"] == "bfloat16"]


def _decodes(r: Mapping[str, Any], count: int, keys: int) -> AttentionWork:
    cache = "fp8" if r["kv_cache_dtype"] == "fp8" else "bf16"
    heads, width = int(r["num_heads"]), RANK + ROPE
    return AttentionWork(
        (), count, count * keys, keys, heads, 1, width, RANK, kv_dtype=cache, latent=True
    )


def _around(tokens: int, heads: int, absorbed: bool) -> list[Work]:
    """Everything of the module but attention, of ``heads`` heads."""
    queries = heads * (NOPE + ROPE)
    products: list[Work] = [
        GemmWork(tokens, QUERY_RANK + RANK + ROPE, HIDDEN),
        GemmWork(tokens, queries, QUERY_RANK),
        GemmWork(tokens, HIDDEN, heads * VALUE),
    ]
    if absorbed:
        products += [
            GemmWork(tokens, RANK, NOPE, batch=heads),
            GemmWork(tokens, VALUE, RANK, batch=heads),
        ]
    else:
        products.append(GemmWork(tokens, heads * (NOPE + VALUE), RANK))
    specs = (
        Norm(QUERY_RANK, weights=QUERY_RANK),
        Norm(RANK, weights=RANK),
        Pointwise("rotary", ROPE, ROPE),
        Pointwise("rotary", queries, queries),
    )
    batch = BatchShape.of([(tokens, 0)])
    return products + [spec.work(batch, "") for spec in specs]


def _seconds(works: list[Work], costs: CostModel) -> float:
    return sum(costs.cost(work).seconds for work in works)


def _regime(work: AttentionWork, memory_bound: bool = True) -> str:
    """Where a module belongs in the error table; ``memory_bound``: not out of the cache."""
    if work.heads < 2 or work.decodes > 256 or work.query_tokens > 8192:
        return "outside serving sizes"
    if work.decode_keys_max > 32769:
        return "outside serving sizes"
    return "serving" if memory_bound else "weights partly in cache"


def _rest(work: AttentionWork, module: float, others: float, origin: str, regime: str) -> list[Row]:
    """The row of what ``others`` leave of ``module``, where that is attention's for certain."""
    seconds = module - others
    if seconds < _LEAST_SHARE * module:
        return []
    family = "prefill" if work.prefills else "decode"
    form = f"{family}.{attention_key(work)}"
    return [Row(work, seconds, form, f"{work.heads} heads over a latent", origin, regime=regime)]
