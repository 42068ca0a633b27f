"""Figure 5: throughput over time of vLLM on RTX A6000s, 300 ShareGPT requests at 10 a second.

A row of the measurements holds the output tokens of the second that ends at its time: their sum is
that of the workload, and their dips fall on its longest prompts. Rows without a token after the
last one are left out; before it, they count.

Cases: MD, two instances behind a router; PDD, one for prefill and one for decode; SD+PC, one with
prefix caching; SM, one with a mixture of experts, of which there are no measured layer latencies.
The settings say what was deployed. What they leave open is vLLM's default at that time: requests
go to instances in turn, and steps are scheduled synchronously (asynchronous scheduling is the
default from vLLM 0.14 on), so that the host's part of each step shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from servesim.runtime.records import Records
from servesim.scenario import Scenario, run
from servesim.validation.paper.figures import Cases, Metric, PaperData

TITLE = "throughput over time, RTX A6000: two instances, prefill/decode, one instance, MoE"
_FOLDER = "figure_5_a6000"
_WORKLOADS = {
    "MD": "sharegpt_req300_rate10_llama",
    "PDD": "sharegpt_req300_rate10_llama",
    "SD+PC": "sharegpt_req300_rate10_llama",
    "SM": "sharegpt_req300_rate10_phi",
}

Values = npt.NDArray[np.float64]


def compare(data: PaperData) -> Cases:
    """Mean throughput, time to serve all, and the curve of each case; the curve's error is the
    mean over its seconds of the absolute difference, over the mean measured.

    Raises:
        ServesimError: the data cannot be read, or a case cannot be simulated.
    """
    return {name: _case(data, name, workload) for name, workload in _WORKLOADS.items()}


def scenario(settings: Mapping[str, Any], data: PaperData, workload: str) -> Scenario:
    """The scenario that cluster settings of the paper describe."""
    node = settings["nodes"][0]
    instances = [_instance(number, one, data) for number, one in enumerate(node["instances"])]
    return Scenario.of(
        instance=instances,
        engine={"async_scheduling": False, "enable_prefix_caching": True},
        network={
            "bandwidth": settings["link_bw"] * 1e9,
            "latency": settings["link_latency"] * 1e-9,
        },
        workload={"kind": "jsonl", "path": data.workload(workload)},
    )


def tokens_by_second(records: Records) -> Values:
    """Output tokens of each second from 0 on, until the last token."""
    first = records.requests.column("first_token_s")
    last_s = float(np.nanmax(records.requests.column("finished_s")))
    edges = np.arange(np.ceil(last_s) + 1)
    tokens = np.histogram(first[np.isfinite(first)], edges)[0].astype(np.float64)
    for one in records.instances:
        ends, decodes = one.steps.column("end_s"), one.steps.column("decodes")
        tokens += np.histogram(ends, edges, weights=decodes)[0]
    return tokens


def _case(data: PaperData, name: str, workload: str) -> Mapping[str, Metric]:
    settings = data.settings(f"{_FOLDER}/{name}_config.json")
    rows = data.table(f"{_FOLDER}/{name}_throughput.tsv")
    measured = np.array([float(row["throughput"]) for row in rows[1:]])  # the first is time 0
    measured = np.trim_zeros(measured, "b")
    simulated = tokens_by_second(run(scenario(settings, data, workload)).records)
    both = np.zeros((2, max(len(measured), len(simulated))))
    both[0, : len(measured)], both[1, : len(simulated)] = measured, simulated
    apart = float(np.abs(both[1] - both[0]).mean() / measured.mean())
    means = float(measured.mean()), float(simulated.mean())
    return {
        "mean_throughput_tokens_per_s": Metric.of(*means),
        "makespan_s": Metric.of(float(len(measured)), float(len(simulated))),
        "throughput_curve_tokens_per_s": Metric(*means, apart),
    }


def _instance(number: int, one: Mapping[str, Any], data: PaperData) -> dict[str, Any]:
    hardware: dict[str, Any] = {"device": one["hardware"]}
    profile = data.profile_for(one["hardware"])
    if profile is not None and (profile / one["model_name"]).is_dir():
        hardware["profile"] = profile
    return {
        "name": f"instance-{number}",
        "role": one["pd_type"] or "both",
        "model": {"id": one["model_name"]},
        "hardware": hardware,
        "engine": {"tensor_parallel_size": one["npu_num"]},
    }
