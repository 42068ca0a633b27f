"""A live engine in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from servesim.errors import InputError, UnsupportedError
from servesim.validation.live.engine_side import CORES, MARK, RECORD
from servesim.validation.live.loads import Request

#: The line of a traceback that says what went wrong; some go on below it.
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class EngineSetup:
    """How the engine is run.

    Attributes:
        python: the interpreter that has the engine.
        engine: which; its client is ``<engine>_client.py``.
        device: ``cpu`` pins the engine to its own cores, in one process.
        threads: cores of a CPU engine, the highest ones; its client gets the rest.
        options: engine arguments by vLLM's names.
    """

    python: Path
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    engine: Literal["vllm", "transformers"] = "vllm"

    def cores(self) -> tuple[list[int], list[int]]:
        """Cores of the engine, and of its client; none where they are not pinned.

        Raises:
            UnsupportedError: the machine has too few.
        """
        if self.device != "cpu":
            return [], []
        cores = sorted(os.sched_getaffinity(0))
        if not 0 < self.threads < len(cores):
            raise UnsupportedError(
                f"threads = {self.threads}: this machine has {len(cores)} cores, "
                "and the client needs one"
            )
        return cores[-self.threads :], cores[: -self.threads]

    def environment(self, record: Path) -> dict[str, str]:
        """Environment of the engine's processes, which write to ``record``."""
        own = {
            RECORD: str(record),
            "PYTHONPATH": str(_HERE),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
        if self.device == "cpu":
            own |= {
                CORES: ",".join(map(str, self.cores()[0])),
                "OMP_NUM_THREADS": str(self.threads),
                "VLLM_CPU_KVCACHE_SPACE": "1",
                # The model runs in the engine's process: no message between them is timed.
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            }
        return {**os.environ, **own}


class LiveEngine:
    """A running engine; a context manager.

    Raises:
        InputError: the interpreter is not there, or the engine did not start; the last of what it
            said is kept in a log file.
    """

    def __init__(self, model: Path, setup: EngineSetup, record: Path) -> None:
        self.record, self._log = record, record.with_suffix(".log")
        record.unlink(missing_ok=True)
        job = {
            "model": str(model.resolve()),
            "device": setup.device,
            "options": dict(setup.options),
            "client_cores": setup.cores()[1],
        }
        command = [str(setup.python), str(_HERE / f"{setup.engine}_client.py"), json.dumps(job)]
        try:
            with self._log.open("w", encoding="utf-8") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=setup.environment(record),
                )
        except OSError as error:
            raise InputError(f"{setup.python}: cannot be run ({error.strerror})") from error
        self.version = str(self._answer()["ready"])

    def run(
        self, name: str, requests: Sequence[Request], *, in_turn: bool = False
    ) -> dict[str, Any]:
        """Send ``requests`` on time; returns what the client saw, once all have finished.

        Args:
            in_turn: send each when the one before it is answered, too.

        Raises:
            InputError: the engine died.
        """
        assert self._process.stdin is not None
        run = {"name": name, "requests": requests, "in_turn": in_turn}
        self._process.stdin.write(json.dumps(run) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line[len(MARK) :])
                return found
        said = [text for text in self._log.read_text(encoding="utf-8").splitlines() if text.strip()]
        errors = [text for text in said if _ERROR.match(text)]
        raise InputError(
            f"the engine stopped: {(errors or said or ['it said nothing'])[-1].strip()}"
        )

    def __enter__(self) -> LiveEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
