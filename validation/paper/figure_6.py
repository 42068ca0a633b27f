"""Figure 6: a server with RTX A6000s under three bursts of requests; its power over time.

The paper's cluster settings describe the server: what its parts draw idle, what a GPU draws
standing by and when it works. They are inputs. When the GPUs work, and for how long, is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from servesim.errors import ServesimError
from servesim.scenario import Scenario, run
from servesim.scenario.energy import energy_of
from servesim.validation.paper.figures import Cases, Metric, PaperData

TITLE = "server power over time, Llama-3.1-8B on RTX A6000"
_FOLDER = "figure_6_power_a6000"
_WORKLOAD = "sharegpt_pulse_req10_n3_delay60"
_CASES = {"TP1": "tp1", "TP2": "tp2"}


def compare(data: PaperData) -> Cases:
    """Mean power, energy and the curve of each case; the curve's error is the mean over its
    seconds of the absolute relative difference.

    Raises:
        ServesimError: the data cannot be read, or a case cannot be simulated.
    """
    return {name: _case(data, suffix) for name, suffix in _CASES.items()}


def scenario(settings: Mapping[str, Any], data: PaperData) -> Scenario:
    """The scenario that cluster settings of the paper describe."""
    node = settings["nodes"][0]
    instance, power = node["instances"][0], node["power"]
    profile = data.profile_for(instance["hardware"])
    return Scenario.of(
        model=instance["model_name"],
        hardware={
            "device": instance["hardware"],
            "power": _accelerator(power["npu"][instance["hardware"]]),
            **({"profile": profile} if profile else {}),
        },
        engine={"tensor_parallel_size": instance["npu_num"]},
        workload={"kind": "jsonl", "path": data.workload(_WORKLOAD)},
        power=_server(power, node["cpu_mem"]["mem_size"] * 1e9),
    )


def _case(data: PaperData, suffix: str) -> Mapping[str, Metric]:
    rows = data.table(f"{_FOLDER}/server_power_{suffix}.tsv")
    measured = np.array([float(row["power_w"]) for row in rows])
    edges = np.append([float(row["time_s"]) for row in rows], float(rows[-1]["time_s"]) + 1.0)
    settings = data.settings(f"{_FOLDER}/power_config_{suffix}.json")
    result = run(scenario(settings, data))
    energy = energy_of(result.deployment, result.records, until_s=float(edges[-1]))
    if energy is None:
        raise ServesimError("the power of the device is not known")
    simulated = energy.watts(edges)
    widths = np.diff(edges)
    curve = float(np.mean(np.abs(simulated / measured - 1.0)))
    return {
        "mean_power_w": Metric.of(float(measured.mean()), float(simulated.mean())),
        "energy_j": Metric.of(float(measured @ widths), float(simulated @ widths)),
        "power_curve_w": Metric(float(measured.mean()), float(simulated.mean()), curve),
    }


def _accelerator(npu: Mapping[str, float]) -> dict[str, float]:
    """A GPU that draws one power while it works: the settings say no more."""
    return {
        "idle_watts": float(npu["idle_power"]),
        "standby_watts": float(npu["standby_power"]),
        "standby_s": float(npu["standby_duration"]),
        "active_watts": float(npu["active_power"]),
        "memory_watts": 0.0,
        "compute_watts": 0.0,
    }


def _server(power: Mapping[str, Any], memory_bytes: float) -> dict[str, Any]:
    cpu, dram, link = power["cpu"], power["dram"], power["link"]
    return {
        "base_watts": float(power["base_node_power"]),
        "cpu": {
            "idle_watts": cpu["idle_power"],
            "active_watts": cpu["active_power"],
            "utilization": cpu["util"],
        },
        "dram": {
            "capacity_bytes": memory_bytes,
            "dimm_bytes": dram["dimm_size"] * 1e9,
            "idle_watts": dram["idle_power"],
            "picojoules_per_bit": dram["energy_per_bit"],
        },
        "link": {
            "count": link["num_links"],
            "idle_watts": link["idle_power"],
            "picojoules_per_bit": link["energy_per_bit"],
        },
        "nic": {"count": power["nic"]["num_nics"], "idle_watts": power["nic"]["idle_power"]},
        "storage": {
            "count": power["storage"]["num_devices"],
            "idle_watts": power["storage"]["idle_power"],
        },
    }
