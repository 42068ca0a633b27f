"""Plans against what vLLM 0.19 reported at start-up on H100."""

from __future__ import annotations

import gzip
import json
import statistics
from pathlib import Path

import pytest

from servesim.hardware.load import load_device
from servesim.models.config import resolve
from servesim.models.load import load_graph
from servesim.models.memory import MemoryOptions, plan_memory
from servesim.validation.startup import compare_startups

SHARED = Path(__file__).parents[3] / "shared"
MEASURED = SHARED / "memory" / "h100_vllm_0.19_startup.csv"
SERVING = SHARED / "serving" / "h100-vllm-0.15"


@pytest.mark.skipif(not MEASURED.exists(), reason=f"no measurements in {MEASURED.parent}")
def test_weights_and_tokens_are_as_reported() -> None:
    starts = compare_startups(MEASURED)
    weights = {start.log: abs(start.weight_bytes.error) for start in starts}
    tokens = {start.log: abs(start.kv_cache_tokens.error) for start in starts}
    concurrency = [abs(start.max_concurrency.error) for start in starts]
    assert len(weights) >= 40
    assert max(weights.values()) < 0.01, max(weights, key=lambda log: weights[log])
    assert statistics.median(tokens.values()) < 0.001
    assert max(tokens.values()) < 0.015, max(tokens, key=lambda log: tokens[log])
    assert max(concurrency) < 0.015


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
