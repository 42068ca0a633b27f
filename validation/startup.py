"""Memory plans beside what vLLM reported at start-up."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError
from servesim.hardware.load import load_device
from servesim.models.config import builtin_names, resolve
from servesim.models.load import load_graph
from servesim.models.memory import MemoryOptions, MemoryPlan, plan_memory
from servesim.models.quantisation import quantise
from servesim.units import GIB
from servesim.validation.compare import Compared


@dataclass(frozen=True, slots=True)
class StartUp:
    """One start of vLLM: what it reported, and what the plan says.

    Attributes:
        log: the log file's name.
        weight_bytes: of one rank.
        kv_cache_tokens: the KV cache's size.
        max_concurrency: sequences of the longest length that fit.
    """

    log: str
    model: str
    tensor_parallel_size: int
    weight_bytes: Compared
    kv_cache_tokens: Compared
    max_concurrency: Compared


def compare_startups(path: Path) -> tuple[StartUp, ...]:
    """Every row of ``path`` whose model has a built-in config.

    Raises:
        InputError: the file cannot be read or lacks a column.
    """
    try:
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    known = {name.lower() for name in builtin_names()}
    try:
        return tuple(_compare(row) for row in rows if row["model"].lower() in known)
    except KeyError as error:
        raise InputError(f"{path}: column {error} is missing") from error


def _compare(row: dict[str, str]) -> StartUp:
    plan = plan_startup(row)
    return StartUp(
        row["log_file"],
        row["model"],
        int(float(row["tp"])),
        Compared(float(row["weight_memory_gib"]) * GIB, plan.weight_bytes),
        Compared(float(row["kv_cache_tokens"]), plan.kv_cache_tokens),
        Compared(float(row["max_concurrency"]), plan.max_concurrency),
    )


def plan_startup(row: dict[str, str]) -> MemoryPlan:
    """The plan for the options of one start on an H100."""
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
