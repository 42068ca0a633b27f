"""What a GPU draws and how fast it ticks, from NVML or from the driver's command."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean

#: Work is queued for so long, then the GPU is asked while it is at it.
_QUEUED_S = 0.2
_QUERY = "power.draw,enforced.power.limit,clocks.sm"


@dataclass(frozen=True, slots=True)
class Reading:
    """Watts now, the limit that the driver enforces, and the clock of the processors in Hz."""

    watts: float
    limit: float
    clock_hz: float


@dataclass(frozen=True, slots=True)
class Draw:
    """Watts at rest and under a large product, the enforced limit, and the clock under load."""

    idle: float
    busy: float
    limit: float
    clock_hz: float = 0.0


Read = Callable[[], Reading]


def draw(
    work: Callable[[], object], wait: Callable[[], object], each: float, seconds: float = 2.0
) -> Draw | None:
    """The draw before and while ``work`` runs over and over; None where nothing can be read.

    Args:
        work: queues a large product.
        wait: returns when all that was queued is done.
        each: seconds of one ``work``.
        seconds: how long it runs.
    """
    for read in _readers():
        try:
            idle = read()
            busy = _under_load(read, work, wait, each, seconds)
        except Exception:  # not told, or not allowed to ask
            continue
        settled = busy[len(busy) // 2 :]
        watts, clock = mean(r.watts for r in settled), mean(r.clock_hz for r in settled)
        return Draw(idle.watts, watts, idle.limit, clock)
    return None


def _under_load(
    read: Read,
    work: Callable[[], object],
    wait: Callable[[], object],
    each: float,
    seconds: float,
) -> list[Reading]:
    found: list[Reading] = []
    until = time.monotonic() + seconds
    while not found or time.monotonic() < until:
        for _ in range(max(1, round(_QUEUED_S / each))):
            work()
        found.append(read())
        wait()
    return found


def _readers() -> Iterator[Read]:
    """Ways to ask the first GPU, the better one first."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # no such package, or no driver
        pass
    else:
        yield lambda: Reading(
            pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
            pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 1e6,
        )
    command = shutil.which("nvidia-smi")
    if command:
        asked = [command, "-i", "0", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        yield lambda: parsed(
            subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout
        )


def parsed(line: str) -> Reading:
    """What the driver's command prints.

    Raises:
        ValueError: it does not know ("[N/A]").
    """
    watts, limit, megahertz = map(float, line.strip().split(","))
    return Reading(watts, limit, megahertz * 1e6)
