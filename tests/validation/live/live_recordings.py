"""Recordings made by the simulator itself, in the form of those of a live engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servesim.hardware.load import DEVICES
from servesim.runtime.deciding import build_scheduler
from servesim.runtime.kv import build_cache
from servesim.runtime.modes import SchedulerModes
from servesim.runtime.plan import Plan
from servesim.runtime.request import RequestSpec
from servesim.runtime.sequence import Sequence as EngineSequence
from servesim.scenario.build import Served
from servesim.validation.json_files import read_object
from servesim.validation.live import architectures
from servesim.validation.live.recorded import LiveRequest, LiveRun, save
from servesim.validation.live.served import serve_live

MICRO = 1e-6
HOST = "\n[host]\nstep_s = 2e-3\nper_sequence_s = 1e-4\n"
ENGINE: Mapping[str, Any] = {
    "dtype": "bfloat16",  # of no use to a simulation
    "block_size": 16,
    "num_gpu_blocks_override": 40,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "enforce_eager": True,
    "async_scheduling": False,
}
#: Arrival, prompt and output tokens: chunked prompts, pauses, and more than fits 39 blocks.
REQUESTS = [(0.0, 100, 40), (0.001, 150, 90), (0.002, 60, 120), (0.01, 90, 150), (0.3, 30, 100)]
REQUESTS += [(0.31, 200, 60), (1e3, 20, 1), (1e3, 40, 5), (1001.0, 64, 2)]


def write_device(folder: Path) -> str:
    """The device file of the recordings in ``folder``: a host may run ahead of it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (DEVICES / "xeon_8480.toml").read_text(encoding="utf-8")
    aliases = 'aliases = ["cpu", "cpu_server", "Xeon8480"]\n'
    path = folder / "device.toml"
    text = text.replace(aliases, "").replace('kind = "cpu"', 'kind = "npu"')
    path.write_text(text + HOST, encoding="utf-8")
    return str(path)


def served(device: str, engine: Mapping[str, Any] = ENGINE, model: str = "dense-gqa") -> Served:
    """A small architecture, ready to run."""
    request = LiveRequest(0, 0.0, 0.0, 0.0, 0.0, 0.0, 1, 1)
    config = read_object(architectures.architecture(model).folder / "config.json")
    return serve_live(LiveRun(model, "", 1, engine, (request,), (), {}), config, device)


def recording(
    one: Served,
    engine: Mapping[str, Any] = ENGINE,
    requests: Sequence[tuple[float, int, int]] = tuple(REQUESTS),
    **about: Any,
) -> dict[str, Any]:
    """``requests`` on ``one``, as a live engine would have recorded them."""
    return _Recorder(one, requests).run(engine, {"load": "busy", "repeat": 1, **about})


def write_recordings(folder: Path, model: str = "dense-gqa", repeats: int = 1) -> None:
    """``folder`` with equal recordings of ``model`` under one load."""
    one = served(write_device(folder), model=model)
    (folder / model).mkdir()
    config = architectures.architecture(model).folder / "config.json"
    (folder / model / "config.json").write_text(config.read_text(encoding="utf-8"))
    for repeat in range(1, repeats + 1):
        run = recording(one, model=model, repeat=repeat)
        save(run, folder / model / "busy" / f"{repeat}.json.gz")


class _Recorder:
    """An engine under a virtual clock. Between steps it has a few microseconds for its queue."""

    def __init__(self, one: Served, requests: Sequence[tuple[float, int, int]]) -> None:
        config, self.engine = one.config, one.engines[0]
        cache = build_cache(config, self.engine.blocks, self.engine.kv_groups)
        modes = SchedulerModes(visit_all=True, listing=True)
        self.scheduler = build_scheduler(config, cache, modes)
        self.specs = [RequestSpec(i, *request) for i, request in enumerate(requests)]
        self.left = list(self.specs)[::-1]
        self.times: list[dict[str, float]] = [{"arrival_s": s.arrival_s} for s in self.specs]
        self.steps: list[dict[str, Any]] = []
        self.block_size = config.block_size
        self.ahead = config.async_scheduling

    def run(self, engine: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
        now, current = 0.0, None
        while self.left or self.scheduler.busy:
            if current is None and not self.scheduler.busy:
                now = max(now, self.left[-1].arrival_s)
            self._queue(now)
            current = current or self._schedule(now + 2 * MICRO)
            following = self._schedule(now + 3 * MICRO) if self.ahead else None
            assert current is not None
            plan, row = current
            now += row["seconds"]
            self._end(plan, row, now - MICRO)
            current = following
        return {
            "format": 1,
            "model": "dense-gqa",
            **about,
            "engine_version": "synthetic",
            "machine": {"processor": "virtual", "threads": 1},
            "engine": dict(engine),
            "requests": self._requests(),
            "steps": {
                name: [row[name] for row in self.steps]
                for name in ("start_s", "end_s", "model_s", "scheduled", "preempted", "free_blocks")
            },
        }

    def _queue(self, now: float) -> None:
        while self.left and self.left[-1].arrival_s <= now:
            spec = self.left.pop()
            self.times[spec.id]["queued_s"] = now + MICRO
            self.scheduler.add(EngineSequence(spec, spec.id, self.block_size))

    def _schedule(self, start_s: float) -> tuple[Plan, dict[str, Any]] | None:
        plan = self.scheduler.schedule()
        if plan.empty:
            return None
        model_s = self.engine.step_model.seconds(plan.shape())
        host_s = self.engine.host_s + self.engine.host_per_sequence_s * plan.sequences
        row = {
            "start_s": start_s,
            "model_s": model_s,
            "seconds": model_s + host_s,
            "scheduled": [[g.seq.spec.id, g.computed, g.new] for g in plan.listing],
            "preempted": [seq.spec.id for seq in plan.preempted],
            "free_blocks": plan.free_blocks,
        }
        self.steps.append(row)
        for grant in plan.listing:
            self.times[grant.seq.spec.id].setdefault("scheduled_s", start_s)
        return plan, row

    def _end(self, plan: Plan, row: dict[str, Any], end_s: float) -> None:
        row["end_s"] = end_s
        for seq in plan.first:
            self.times[seq.spec.id]["first_token_s"] = end_s
        for seq in self.scheduler.update(plan):
            self.times[seq.spec.id]["finished_s"] = end_s

    def _requests(self) -> dict[str, list[Any]]:
        names = ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "finished_s")
        return {
            **{name: [row[name] for row in self.times] for name in names},
            "prompt_tokens": [spec.prompt_tokens for spec in self.specs],
            "output_tokens": [spec.output_tokens for spec in self.specs],
        }
