"""Plans against what vLLM 0.19 reported at start-up on H100."""

from __future__ import annotations

import csv
import gzip
import json
import statistics
from pathlib import Path

import pytest

from servesim.hardware.load import load_device
from servesim.models.config import builtin_names, resolve
from servesim.models.load import load_graph
from servesim.models.memory import MemoryOptions, MemoryPlan, plan_memory
from servesim.models.quantisation import quantise
from servesim.units import GIB

SHARED = Path(__file__).parents[3] / "shared"
MEASURED = SHARED / "memory" / "h100_vllm_0.19_startup.csv"
SERVING = SHARED / "serving" / "h100-vllm-0.15"


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


@pytest.mark.parametrize(
    ("run", "tolerance"),
    [
        ("20260217-155451-llama-2-7b-tp1-codegen", 0.002),
        # Collectives took 1.5 GiB less in the older version.
        ("20260217-202857-llama-2-70b-tp4-general", 0.05),
    ],
)
def test_blocks_of_engines_with_other_steps(run: str, tolerance: float) -> None:
    """vLLM 0.15, steps of 2048 tokens and 128 sequences: runs that no constant was taken from."""
    path = SERVING / f"{run}.json.gz"
    if not path.exists():
        pytest.skip(f"no measurements in {SERVING}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        measured = json.load(file)
    engine = measured["config"]
    ranks = engine["tensor_parallelism"]
    config = resolve(measured["model_id"])
    graph = load_graph(measured["model_id"], tensor_parallel_size=ranks)
    options = MemoryOptions(
        max_num_seqs=engine["max_num_seqs"],
        max_num_batched_tokens=engine["max_num_batched_tokens"],
    )
    plan = plan_memory(graph, load_device("H100").memory.capacity_bytes, options, config)
    assert plan.kv_cache_blocks == pytest.approx(engine["kv_blocks_total_gpu"], rel=tolerance)
