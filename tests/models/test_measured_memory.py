"""Plans against what vLLM 0.19 reported at start-up on H100."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest

from servesim.hardware.load import load_device
from servesim.models.config import builtin_names, resolve
from servesim.models.load import load_graph
from servesim.models.memory import MemoryOptions, MemoryPlan, plan_memory
from servesim.models.quantisation import quantise
from servesim.units import GIB

MEASURED = Path(__file__).parents[3] / "shared" / "memory" / "h100_vllm_0.19_startup.csv"


def rows() -> list[dict[str, str]]:
    with MEASURED.open(encoding="utf-8") as file:
        known = {name.lower() for name in builtin_names()}
        return [r for r in csv.DictReader(file) if r["model"].lower() in known]


def planned(row: dict[str, str]) -> MemoryPlan:
    device = load_device("H100")
    config = resolve(row["model"])
    ranks = int(float(row["tp"]))
    graph = load_graph(row["model"], tensor_parallel_size=ranks, dtype=row["dtype"])
    online = "fp8" if row["quantization"] == "fp8" else None
    graph = quantise(graph, config, online, row["kv_cache_dtype"])
    options = MemoryOptions(
        gpu_memory_utilization=float(row["gpu_memory_utilization"]),
        max_model_len=int(float(row["max_model_len"])),
        pipeline_parallel_size=int(float(row["pp"])),
        compute_units=device.cores,
    )
    return plan_memory(graph, device.memory.capacity_bytes, options, config)


@pytest.mark.skipif(not MEASURED.exists(), reason=f"no measurements in {MEASURED.parent}")
def test_weights_and_tokens_are_as_reported() -> None:
    weights: dict[str, float] = {}
    tokens: dict[str, float] = {}
    concurrency: dict[str, float] = {}
    for row in rows():
        plan = planned(row)
        reported = float(row["weight_memory_gib"]) * GIB
        weights[row["log_file"]] = abs(plan.weight_bytes / reported - 1)
        tokens[row["log_file"]] = abs(plan.kv_cache_tokens / float(row["kv_cache_tokens"]) - 1)
        reported = float(row["max_concurrency"])
        concurrency[row["log_file"]] = abs(plan.max_concurrency / reported - 1)
    assert len(weights) >= 40
    assert max(weights.values()) < 0.01, max(weights, key=lambda log: weights[log])
    assert statistics.median(tokens.values()) < 0.001
    assert max(tokens.values()) < 0.015, max(tokens, key=lambda log: tokens[log])
    assert max(concurrency.values()) < 0.015
