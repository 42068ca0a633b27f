"""Figure 7: memory and prefix hits over time, Llama-3.1-8B on RTX A6000, six bursts of requests.

One engine; and two behind round robin that share a pool of KV in host memory. What the curves
count, found from their values: device memory is the weights and every KV block with content, held
or still to be found; the pool keeps chunks of 256 tokens (32 MiB) of prompts and answers as they
are computed; hits are tokens, over all prompt tokens so far, and the pool's only those beyond an
engine's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from servesim.runtime.records import Records
from servesim.scenario import Scenario, run
from servesim.scenario.run import Result
from servesim.units import MIB
from servesim.validation.paper.figures import Cases, Metric, PaperData

TITLE = "memory and prefix hits over time, Llama-3.1-8B on RTX A6000"
_FOLDER = "figure_7_memory_a6000"
_WORKLOAD = "sharegpt_pulse_req50_n6_delay15_pc"
_POOL = "host memory"
#: Tokens of a chunk in the pool, as the steps of its curve show.
_CHUNK = 256

Floats = npt.NDArray[np.float64]


def compare(data: PaperData) -> Cases:
    """Mean memory, its curve (whose error is the mean over the seconds of the absolute relative
    difference) and the final hit ratio (whose error is the difference itself) of each case.

    Raises:
        ServesimError: the data cannot be read, or a case cannot be simulated.
    """
    one = run(scenario(data, "SD+PC"))
    two = run(scenario(data, "MD+PC+PS"))
    return {
        "SD+PC": _device(one, 0, data.table(f"{_FOLDER}/SD+PC.tsv")),
        "MD+PC+PS inst0": _device(two, 0, data.table(f"{_FOLDER}/MD+PC+PS_inst0.tsv")),
        "MD+PC+PS inst1": _device(two, 1, data.table(f"{_FOLDER}/MD+PC+PS_inst1.tsv")),
        "MD+PC+PS pool": _pool(two.records, data.table(f"{_FOLDER}/MD+PC+PS_shared_cpu.tsv")),
    }


def scenario(data: PaperData, case: str) -> Scenario:
    """The scenario that a case's cluster settings describe."""
    node = data.settings(f"{_FOLDER}/{case}_config.json")["nodes"][0]
    instance, host = node["instances"][0], node["cpu_mem"]
    sections: dict[str, Any] = {
        "model": instance["model_name"],
        "hardware": {
            "device": instance["hardware"],
            **({"profile": data.profile} if data.profile else {}),
        },
        "engine": {"tensor_parallel_size": instance["npu_num"]},
        "workload": {"kind": "jsonl", "path": data.workload(_WORKLOAD)},
        "instance": [{"count": node["num_instances"]}],
    }
    if case.endswith("PS"):
        tier = {
            "name": "host",
            "pool": _POOL,
            "capacity_bytes": host["mem_size"] * 1e9,
            "bandwidth": host["mem_bw"] * 1e9,
            "latency_s": host["mem_latency"] * 1e-9,
        }
        sections["offload"] = {"tiers": [tier], "chunk_tokens": _CHUNK}
    return Scenario.of(**sections)


def _device(result: Result, number: int, rows: Sequence[Mapping[str, str]]) -> dict[str, Metric]:
    served, records = result.deployment.served[0], result.records
    steps = records.instances[number].steps
    block = served.graph.caches[0].bytes_per_token * served.graph.num_layers * 16
    ends, blocks = steps.column("end_s"), steps.column("filled_blocks")
    held = _at(ends, blocks, _seconds(records, rows)) * block
    measured = np.array([float(row["gpu_mem_mb"]) for row in rows]) * MIB
    mine = records.requests.column("instance") == number
    # At admission the pool's hits count as cached, too: take those of this engine out.
    prompts = records.requests.column("prompt_tokens")[mine].sum()
    cached = records.requests.column("cached_tokens")[mine].sum()
    own = (cached - records.requests.column("recalled_tokens")[mine].sum()) / prompts
    return {
        **_memory(measured, held + served.graph.weight_bytes),
        "final_hit_ratio": _ratio(float(rows[-1]["prefix_hit_pct"]) / 100, float(own)),
    }


def _pool(records: Records, rows: Sequence[Mapping[str, str]]) -> dict[str, Metric]:
    tier = records.tiers[0]
    times = tier.column("time_s")
    held = _at(times, tier.column("resident_bytes"), _seconds(records, rows))
    measured = np.array([float(row["shared_cpu_mem_mb"]) for row in rows]) * MIB
    hits = tier.column("hit_tokens")[-1] / records.requests.column("prompt_tokens").sum()
    ratio = float(rows[-1]["shared_cpu_prefix_hit_pct"]) / 100
    return {
        **_memory(measured, held),
        "final_memory_bytes": Metric.of(float(measured[-1]), float(held[-1])),
        "final_hit_ratio": _ratio(ratio, float(hits)),
    }


def _seconds(records: Records, rows: Sequence[Mapping[str, str]]) -> Floats:
    """When the rows were taken: at the end of each second since the first request."""
    first = float(records.requests.column("arrival_s")[0])
    return np.array([first + 1.0 + float(row["time_s"]) for row in rows])


def _at(times: Floats, values: Floats, when: Floats) -> Floats:
    """The latest value at each time; 0 before the first."""
    place = np.searchsorted(times, when, side="right") - 1
    return np.where(place >= 0, values[np.maximum(place, 0)], 0.0)


def _memory(measured: Floats, simulated: Floats) -> dict[str, Metric]:
    mean = float(measured.mean()), float(simulated.mean())
    error = float(np.mean(np.abs(simulated / measured - 1.0)))
    return {"mean_memory_bytes": Metric.of(*mean), "memory_curve_bytes": Metric(*mean, error)}


def _ratio(measured: float, simulated: float) -> Metric:
    return Metric(measured, simulated, simulated - measured)
