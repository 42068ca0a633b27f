"""Processes that run collectives together: started, asked one after another, ended."""

from __future__ import annotations

import multiprocessing
import socket
import time
import warnings
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.measure.company import ALONE, Company
from servesim.hardware.measure.timer import Call

#: Seconds that processes have to start (libraries load), and to answer once they run.
_START_S, _ANSWER_S = 180.0, 60.0
#: Seconds that they have, all together, to end by themselves.
_END_S = 10.0
#: Collectives in a row between two looks at the clock, as nccl-tests does.
_IN_A_ROW = 5


class Ranks:
    """A group of processes, each with a device of its own (a GPU, or CPU threads).

    Attributes:
        count: processes.
    """

    def __init__(self, provider: str, device: str, count: int, threads: int) -> None:
        self.count = count
        self._fault = ""
        context = multiprocessing.get_context("spawn")
        address = f"tcp://127.0.0.1:{_free_port()}"
        self._ends: list[Connection] = []
        self._processes = []
        for rank in range(count):
            mine, theirs = context.Pipe()
            about = provider, device, rank, count, address, threads
            process = context.Process(target=_serve, args=(theirs, about), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(mine)
            self._processes.append(process)

    def __enter__(self) -> Ranks:
        try:
            self._answers(_START_S)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        for end in self._ends:
            end.close()
        until = time.monotonic() + _END_S
        for process in self._processes:
            process.join(timeout=max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()

    def calls(self, work: Work) -> Sequence[Call]:
        """One call, which returns the seconds of ``work`` on the slowest rank."""
        assert isinstance(work, CollectiveWork)
        return [partial(self.seconds, work)]

    def seconds(self, work: CollectiveWork) -> float:
        """Seconds of ``work`` on the slowest rank.

        Raises:
            UnsupportedError: a rank failed; or did not answer, now or before.
        """
        if self._fault:
            raise UnsupportedError(self._fault)
        try:
            for end in self._ends:
                end.send(work)
        except OSError as error:
            raise UnsupportedError("a rank has ended") from error
        return max(self._answers(_ANSWER_S))

    def _answers(self, patience: float) -> list[float]:
        until = time.monotonic() + patience
        found: list[float] = []
        failures: list[str] = []
        for rank, end in enumerate(self._ends):
            if not end.poll(max(0.0, until - time.monotonic())):
                self._fault = f"rank {rank} does not answer"
                raise UnsupportedError(self._fault)
            try:
                answer = end.recv()
            except EOFError as error:
                raise UnsupportedError(f"rank {rank} has ended") from error
            (failures if isinstance(answer, str) else found).append(answer)
        if failures:
            raise UnsupportedError(failures[0])
        return found


class OwnClock:
    """A timer of calls that return what they took: ranks look at clocks of their own."""

    def seconds(self, calls: Sequence[Call], after: Company = ALONE) -> list[float]:
        """What each call says."""
        return [float(call()) for call in calls]  # type: ignore[arg-type]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _serve(end: Connection, about: tuple[str, str, int, int, str, int]) -> None:
    """A rank: joins the others, then answers each work with its seconds, or with why not."""
    import torch

    from servesim.hardware.measure.kernels.collectives import join, leave

    provider, device, rank, count, address, threads = about
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    try:
        group = join(provider, device, rank, count, address)
        end.send(0.0)
    except Exception as error:
        end.send(_line(error))
        return
    _answer(end, device, group)
    leave(provider)


def _answer(end: Connection, device: str, group: Any) -> None:
    """Answer until nobody asks any more."""
    from servesim.hardware.measure.kernels.collectives import bound

    bindings: dict[CollectiveWork, Call] = {}
    while True:
        try:
            work = end.recv()
        except EOFError:
            return
        try:
            if work not in bindings:
                bindings = {work: bound(work, device, group)}
            end.send(_timed(bindings[work], device))
        except Exception as error:
            end.send(_line(error))


def _timed(call: Call, device: str) -> float:
    """Mean seconds of some calls in a row, all ranks beginning together."""
    import torch

    wait: Any = torch.cuda.synchronize if device == "cuda" else lambda: None
    torch.distributed.barrier()
    wait()
    start = time.perf_counter()
    with torch.inference_mode():
        for _ in range(_IN_A_ROW):
            call()
    wait()
    return (time.perf_counter() - start) / _IN_A_ROW


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
