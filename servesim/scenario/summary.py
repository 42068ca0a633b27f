"""What a run comes to, as plain values for JSON: same scenario and seed, same values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servesim import __version__
from servesim.runtime.energy.report import EnergyReport
from servesim.runtime.expert_offload_step import ExpertOffloadStepModel
from servesim.runtime.metrics import Report, goodput, tokens_per_decode
from servesim.runtime.records import Status
from servesim.runtime.tiers.store import COLUMNS, TierRecords
from servesim.scenario.build import Served
from servesim.scenario.run import Result
from servesim.scenario.sections import HardwareSection

_LATENCIES = ("ttft", "tpot", "itl", "e2e")


def summarise(result: Result) -> dict[str, Any]:
    """The content of ``summary.json``; times in seconds, nothing that depends on the machine."""
    metrics, scenario = result.metrics, result.scenario
    values = {
        "servesim": __version__,
        "scenario": scenario.name,
        "instances": [_instance(one) for one in result.deployment.served],
        "workload": {"kind": scenario.workload.kind, **scenario.workload.options},
        "router": {"kind": scenario.router.kind, **scenario.router.options},
        "requests": {
            "total": metrics.requests,
            "finished": metrics.finished,
            "rejected": metrics.rejected,
            **({"cancelled": metrics.cancelled} if metrics.cancelled else {}),
            "first_rejected_because": first_rejection(result),
        },
        "latency_s": {name: dataclasses.asdict(getattr(metrics, name)) for name in _LATENCIES},
        "throughput": throughput(metrics),
        "kv_use": {"mean": metrics.kv_use_mean, "peak": metrics.kv_use_peak},
        "preemptions": metrics.preemptions,
        "retries": sum(result.records.requests.retries),
        "link_bytes": result.records.links,
        "instance_changes": _changes(result),
        "prefix_hit_rate": metrics.prefix_hit_rate,
        "tokens_per_decode": tokens_per_decode(result.records),
        "tiers": [_tier(one) for one in result.records.tiers],
        "makespan_s": metrics.makespan_s,
        "steps": metrics.steps,
        "goodput_requests_per_s": goodput(result.records.requests, scenario.slo),
        "energy": energy_values(result.energy) if result.energy else None,
        "cost": dataclasses.asdict(result.cost),
        "time_by_source": {source.value: share for source, share in result.sources.items()},
    }
    return {key: _plain(value) for key, value in values.items()}


def throughput(metrics: Report) -> dict[str, float]:
    """Finished requests and their tokens per second of the makespan."""
    return {
        "requests_per_s": metrics.request_throughput,
        "prompt_tokens_per_s": metrics.total_throughput - metrics.output_throughput,
        "output_tokens_per_s": metrics.output_throughput,
    }


def energy_values(energy: EnergyReport) -> dict[str, Any]:
    """Joules and watts of a run."""
    return {
        "joules": energy.total,
        "mean_watts": energy.mean_watts,
        "joules_per_output_token": energy.joules_per_output_token,
        "joules_per_request": energy.joules_per_request,
        "joules_by_component": dict(energy.components),
        "accelerator_joules_by_state": dict(energy.states),
        "active_joules_by_operator": dict(energy.families),
        "active_joules_by_phase": {
            "prefill": energy.prefill_joules,
            "decode": energy.decode_joules,
        },
    }


def first_rejection(result: Result) -> str | None:
    """Why the first of the rejected requests could never run (``requests.csv`` has all)."""
    requests = result.records.requests
    rows = [row for row in requests.reasons if requests.status[row] == Status.REJECTED]
    return requests.reasons[min(rows)] if rows else None


def _changes(result: Result) -> list[dict[str, Any]]:
    """Instances that failed, recovered, started or stopped, in order of time."""
    names = [one.name for one in result.records.instances]
    return [
        {"time_s": change.time_s, "instance": names[change.instance], "state": change.state.value}
        for change in result.records.changes
    ]


def _instance(one: Served) -> dict[str, Any]:
    graph = one.graph
    values = {
        "name": one.instance.name,
        "count": one.instance.count,
        "role": one.instance.role,
        "model": {
            "id": graph.model,
            "dtype": graph.dtype,
            "parameters": graph.parameters,
            "active_parameters": graph.active_parameters,
            "layers": graph.num_layers,
            "weight_bytes": graph.weight_bytes,
            "kv_bytes_per_token": graph.kv_bytes_per_token,
            "state_bytes_per_sequence": graph.state_bytes_per_sequence,
        },
        "hardware": {
            "device": one.device.name,
            "devices": one.devices // one.instance.count,
            "profile": one.instance.hardware.profile,
            **_collectives(one.instance.hardware),
        },
        "memory": dataclasses.asdict(one.memory),
        "engine": dataclasses.asdict(one.config),
    }
    if isinstance(one.step_model, ExpertOffloadStepModel):
        values["expert_offload"] = _expert_offload(one, one.step_model)
    return values


def _expert_offload(one: Served, model: ExpertOffloadStepModel) -> dict[str, Any]:
    """Experts in the steps of an instance: those needed, those that a device had, and traffic."""
    totals = model.totals
    return {
        "gpu_expert_slots": max(experts.cache.slots for experts in model.experts),
        "touched_experts": totals.touched,
        "missed_experts": totals.missed,
        "hit_rate": totals.hit_rate,
        "link_bytes": totals.link_bytes * one.ranks,
        "waiting_s": model.waited[0],
    }


def _plain(value: Any) -> Any:
    """``value`` as JSON has it: paths as text, nan as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _tier(tier: TierRecords) -> dict[str, Any]:
    """What a memory below the devices' held and moved; tokens are those it spared computing."""
    peak = tier.column("resident_bytes").max(initial=0.0)
    last = {name: float(tier.column(name)[-1]) if len(tier) else 0.0 for name in COLUMNS[1:]}
    return {
        "name": tier.name,
        "pool": tier.pool,
        "capacity_bytes": tier.capacity_bytes,
        "resident_peak_bytes": float(peak),
        **last,
    }


def _collectives(section: HardwareSection) -> dict[str, object]:
    """Where measured collectives came from, if any were."""
    return {"collectives": section.collectives} if section.collectives is not None else {}
