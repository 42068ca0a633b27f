"""Measured collectives from AIConfigurator's tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from servesim.errors import InputError
from servesim.hardware.calibrate.records import (
    read_frame,
    require_columns,
    require_counts,
    require_times,
)
from servesim.hardware.collectives import link_limits
from servesim.hardware.link import Link

_NCCL, _CUSTOM = COLLECTIVE_TABLES = "nccl_perf.parquet", "custom_allreduce_perf.parquet"


@dataclass(frozen=True, slots=True)
class CollectiveSample:
    """One measured collective; the payload counts as in ``CollectiveWork``."""

    operation: str
    ranks: int
    payload_bytes: float
    seconds: float


def has_collectives(folder: Path) -> bool:
    """Whether there are tables for :func:`read_kernel_tables`."""
    return bool(collective_files(folder))


def collective_files(folder: Path) -> list[Path]:
    """The tables that :func:`read_kernel_tables` reads."""
    return [*_tables(folder, _NCCL), *_tables(folder, _CUSTOM)]


def _tables(place: Path, name: str) -> list[Path]:
    """``place`` itself, or the tables called ``name`` in it or one folder below."""
    if place.is_file():
        return [place] if place.name == name else []
    return sorted([*place.glob(name), *place.glob(f"*/{name}")])


def read_kernel_tables(folder: Path, link: Link) -> list[CollectiveSample]:
    """Samples from AIConfigurator's tables ``nccl_perf`` and ``custom_allreduce_perf``.

    ``message_size`` counts elements. Rows of 16-bit elements are taken, the engine's all-reduce
    as replayed in a CUDA graph: each with the kernel that the engine takes among devices joined by
    ``link``. Over a host link vLLM uses its own for two devices only. What it leaves to NCCL is
    measured in ``nccl_perf``.

    Raises:
        InputError: there are no such tables, or one cannot be read, lacks a column or holds a bad
            value.
        ImportError: the library that reads parquet is missing.
    """
    if not has_collectives(folder):
        raise InputError(f"{folder}: no collective tables ({_NCCL} or {_CUSTOM})")
    names, limits = {"alltoall": "all_to_all"}, link_limits(link)
    samples = []
    for path in _tables(folder, _NCCL):
        for row in _records(path, "nccl_dtype", "op_name"):
            if row["nccl_dtype"] == "half":
                operation = names.get(row["op_name"], row["op_name"])
                samples.append(_sample(operation, row))
    for path in _tables(folder, _CUSTOM):
        for row in _records(path, "backend"):
            kernel = limits.kernel(int(row["num_gpus"]), row["message_size"] * 2)
            used = row["num_gpus"] == 2 or link.peer_access
            if row["backend"] == "vllm_graph" and kernel and used:
                samples.append(_sample(kernel, row))
    return samples


def _records(path: Path, *named: str) -> list[dict[str, Any]]:
    table = read_frame(path)
    require_columns(table, (*named, "num_gpus", "message_size"), path)
    require_times(table, "latency", path)
    require_counts(table, ("num_gpus", "message_size"), path, least=1)
    return cast("list[dict[str, Any]]", table.to_dict("records"))


def _sample(operation: str, row: dict[str, float]) -> CollectiveSample:
    payload, seconds = row["message_size"] * 2, row["latency"] * 1e-3
    return CollectiveSample(operation, int(row["num_gpus"]), payload, seconds)
