"""How long calls take: by the clock on a CPU, by events on a GPU. All else is shared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.measure.company import ALONE, Company, Neighbour

#: A kernel with its operands bound; what it returns is dropped.
Call = Callable[[], object]


class Timer(Protocol):
    """Runs calls and says how long each took."""

    def seconds(self, calls: Sequence[Call], after: Company = ALONE) -> list[float]:
        """Seconds of each of ``calls``, run one after another.

        Args:
            after: what runs, untimed, before each of them, where that matters.
        """


class CpuTimer:
    """The monotonic clock around every call: a CPU returns when it is done.

    What the call costs in Python and in the dispatcher is part of what an engine pays. So is
    finding code and operands where the operator before left them.
    """

    def __init__(self) -> None:
        self._neighbour = Neighbour()

    def seconds(self, calls: Sequence[Call], after: Company = ALONE) -> list[float]:
        """Seconds of each call."""
        import torch

        clock, found = time.perf_counter_ns, []
        with torch.inference_mode():
            for call in calls:
                self._neighbour.run(after)
                start = clock()
                call()
                found.append((clock() - start) * 1e-9)
        return found


class CudaTimer:
    """Events around all calls, replayed as one CUDA graph so that launches do not count.

    Calls that cannot be captured run eagerly between the events.
    """

    def seconds(self, calls: Sequence[Call], after: Company = ALONE) -> list[float]:
        """The mean over the calls, once for each of them."""
        import torch

        replay = self._captured(calls)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        replay()
        end.record()
        torch.cuda.synchronize()
        each = start.elapsed_time(end) * 1e-3 / len(calls)
        return [each] * len(calls)

    def _captured(self, calls: Sequence[Call]) -> Callable[[], Any]:
        import torch

        def eager() -> None:
            with torch.inference_mode():
                for call in calls:
                    call()

        eager()  # libraries choose and load their kernels outside the capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                eager()
        except RuntimeError:  # the calls ask the host for something
            torch.cuda.synchronize()
            return eager
        replay: Callable[[], Any] = graph.replay
        replay()
        return replay


def timer_for(device: str) -> Timer:
    """The timer of ``cpu`` or ``cuda``.

    Raises:
        UnknownNameError: another device.
        InputError: there is no GPU that torch can use.
    """
    if device == "cpu":
        return CpuTimer()
    if device != "cuda":
        raise UnknownNameError("device to measure", device, ("cpu", "cuda"))
    import torch

    if not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device here")
    return CudaTimer()
