"""Speed and memory of the engine: how many steps a second, and what they depend on.

Run with ``python benchmarks/engine.py``; on one core, without tracing (the graph is cached).
Seconds are CPU seconds of this process, so that what else the machine does counts little.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

from servesim.graph.opgraph import Block, OpGraph
from servesim.hardware.load import load_device
from servesim.hardware.placement import Placement
from servesim.hardware.power.accelerator import accelerator_power
from servesim.models.load import load_graph
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.energy.capped import CappedStepModel
from servesim.runtime.instance import Instance
from servesim.runtime.records import Records
from servesim.runtime.step import LinearStepModel, StepModel
from servesim.runtime.workloads import WORKLOADS, Workload

MODEL, DEVICE = "meta-llama/Llama-3.1-8B", "H100-SXM"
NULL = LinearStepModel(base_s=0.005, per_token_s=2e-5, per_sequence_s=1e-4)


def timed(workload: Workload, model: StepModel, **options: object) -> tuple[Records, float]:
    """The records of a run on ample memory, and the CPU seconds it took."""
    config = EngineConfig(max_num_seqs=1024, **options)  # type: ignore[arg-type]
    gc.collect()
    start = time.process_time()
    records = simulate(workload, [Instance(config, model, 1 << 22)])
    return records, time.process_time() - start


def steps(records: Records) -> int:
    return int(records.instances[0].steps.column("steps").sum())


def decoding(batch: int, output_tokens: int) -> Workload:
    """``batch`` requests that decode together."""
    options = {"num_requests": batch, "prompt_tokens": "uniform:low=100,high=900"}
    return WORKLOADS.build("burst", {**options, "output_tokens": output_tokens})


def serving(requests: int) -> Workload:
    """Conversations of 256 users who wait for their answers: most steps have a prefill."""
    options = {
        "num_requests": requests,
        "concurrency": 256,
        "prompt_tokens": "lognormal:mean=700,sigma=0.8,high=8000",
        "output_tokens": "lognormal:mean=300,sigma=0.6,high=2000",
        "prefix_groups": 10,
        "prefix_tokens": 256,
    }
    return WORKLOADS.build("closed_loop", options)


def with_layers(graph: OpGraph, layers: int) -> OpGraph:
    """``graph`` with its decoder layers repeated or cut to ``layers``."""

    def stretched(block: Block) -> Block:
        return replace(block, layers=tuple(range(layers))) if block.layers else block

    return replace(graph, blocks=tuple(stretched(block) for block in graph.blocks))


def compiled(graph: OpGraph) -> StepModel:
    device = load_device(DEVICE)
    placement = Placement.tensor_parallel(graph, device)
    return CappedStepModel.under(placement, accelerator_power(device))


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n{title}")
    for row in (header, *rows):
        print("  " + "".join(f"{cell!s:>16}" for cell in row))


def speed_by_batch() -> None:
    rows = []
    for batch in (1, 16, 64, 256, 1024):
        row: list[object] = [batch]
        for caching in (True, False):
            records, wall = timed(decoding(batch, 4000), NULL, enable_prefix_caching=caching)
            row.append(f"{steps(records) / wall:,.0f}")
        rows.append(row)
    table("Decode steps per second, null device", ("batch", "prefix cache", "without"), rows)


def speed_by_layers(graph: OpGraph) -> None:
    rows = []
    for layers in (8, 32, 128):
        model = compiled(with_layers(graph, layers))
        decode, wall = timed(decoding(256, 4000), model)
        mixed, mixed_wall = timed(serving(1000), model)
        rows.append(
            (
                layers,
                f"{steps(decode) / wall:,.0f}",
                f"{steps(mixed) / mixed_wall:,.0f}",
                f"{1000 / mixed_wall:,.0f}",
            )
        )
    header = ("layers", "decode steps/s", "mixed steps/s", "requests/s")
    table(f"{MODEL} on {DEVICE}: batch 256, and conversational traffic", header, rows)


def growth_with_requests() -> None:
    rows = []
    for requests in (1000, 4000, 16000):
        records, wall = timed(serving(requests), NULL)
        tokens = int(records.requests.column("output_tokens").sum())
        rows.append(
            (requests, tokens, steps(records), f"{wall:.2f}", f"{wall / requests * 1e6:.0f}")
        )
    header = ("requests", "output tokens", "steps", "seconds", "µs/request")
    table("Growth with requests, null device", header, rows)


def memory_by_tokens() -> None:
    rows = []
    for output in (10_000, 100_000, 1_000_000):
        gc.collect()
        tracemalloc.start()
        records, _ = timed(decoding(8, output), NULL, enable_prefix_caching=False)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        rows.append((f"{8 * output:,}", f"{steps(records):,}", f"{peak / 2**20:.1f}"))
    table("Memory of a run, 8 requests", ("output tokens", "steps", "peak MiB"), rows)


def main() -> None:
    speed_by_batch()
    speed_by_layers(load_graph(MODEL))
    growth_with_requests()
    memory_by_tokens()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\nPeak memory of this process: {peak / 1024:.0f} MiB", file=sys.stdout)


if __name__ == "__main__":
    main()
