"""Recording: what a client and a scheduler noted becomes a run that comparisons read."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.validation.live import record as recording
from servesim.validation.live.architectures import ARCHITECTURES, architecture
from servesim.validation.live.engine import EngineSetup, LiveEngine
from servesim.validation.live.loads import LOADS, Request, load_called
from servesim.validation.live.record import Campaign, record
from servesim.validation.live.recorded import LiveRun, load, recordings
from servesim.validation.live.served import serve_live

SHAPE = BatchShape.of([(1, 8)] * 8)
PACE = {"copy_s": 0.006, "compute_s": 0.003}

#: Seconds of a step of the engine below, of the model in it, and between two steps.
STEP_S, MODEL_S, BETWEEN_S = 0.010, 0.008, 0.001


class Engine:
    """Answers one request after another, each prompt in one step and each token in one more."""

    version = "9.9"

    def __init__(self, model: Path, setup: EngineSetup, record: Path) -> None:
        assert (model / "config.json").is_file()
        self.record, self.now = record, 100.0
        record.with_suffix(".log").write_text("", encoding="utf-8")
        blocks = setup.options["num_gpu_blocks_override"]
        self._note({"kind": "engine", "num_gpu_blocks": blocks - 1, "async_scheduling": False})

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(
        self, name: str, requests: Sequence[Request], *, in_turn: bool = False
    ) -> dict[str, Any]:
        start, rows = self.now + 1.0, []
        for i, (arrival, prompt, output) in enumerate(requests):
            own, inside = f"{name}:{i}", f"{name}:{i}-0a1b"
            sent = start + arrival
            self.now = max(self.now, sent) + BETWEEN_S
            self._note({"kind": "queued", "id": inside, "s": self.now})
            first = 0.0
            for k in range(output):
                rows_of_step = [[inside, len(prompt) + k - 1, 1] if k else [inside, 0, len(prompt)]]
                self._step(rows_of_step)
                first = first or self.now
            rows.append([own, sent, first, self.now, len(prompt), output])
        return {"run": name, "start": start, "requests": rows}

    def _step(self, scheduled: list[list[Any]]) -> None:
        start = self.now
        self.now += STEP_S + BETWEEN_S
        self._note(
            {
                "kind": "step", "start": start, "end": start + STEP_S, "model_start": start,
                "model_end": start + MODEL_S, "scheduled": scheduled, "preempted": [], "free": 7,
            }
        )  # fmt: skip

    def _note(self, line: dict[str, Any]) -> None:
        with self.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def test_runs_are_told_apart_and_timed_from_their_own_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "LiveEngine", Engine)
    monkeypatch.setattr(recording, "machine_pace", lambda cores: PACE)
    monkeypatch.setattr(EngineSetup, "cores", lambda self: ([1], [0]))
    said: list[str] = []
    setup = EngineSetup(Path("python"), options={"max_num_seqs": 4, "max_num_batched_tokens": 8})
    campaign = Campaign((load_called("light"), load_called("busy")), 2, seconds=2.0, flood=4)
    files = record(architecture("dense-gqa"), campaign, setup, tmp_path, said.append)
    assert sorted(files) == recordings(tmp_path)
    places = [path.relative_to(tmp_path).as_posix() for path in files]
    # Repeats are interleaved, so that a machine that slows down slows all loads.
    assert places == [f"dense-gqa/{name}/{i}.json.gz" for i in (1, 2) for name in ("light", "busy")]
    assert {path.name for path in (tmp_path / "dense-gqa").iterdir()} == {
        "config.json",
        "light",
        "busy",
    }
    assert said[0] == "dense-gqa: warm-up"
    run = load(files[1])
    assert (run.model, run.load, run.repeat) == ("dense-gqa", "busy", 1)
    assert run.about["engine_version"] == "9.9"
    assert run.pace == PACE
    # Of a KV cache of 6,144 tokens in blocks of 32; what the engine reports counts.
    assert run.engine["num_gpu_blocks_override"] == 6144 // 32 - 1
    assert run.engine["max_num_seqs"] == 4
    assert "load_format" not in run.engine
    first = run.requests[0]
    assert (first.arrival_s, first.queued_s) == (0.0, pytest.approx(BETWEEN_S, abs=1e-6))
    assert first.first_token_s == pytest.approx(BETWEEN_S + STEP_S, abs=1e-6)
    steps = first.output_tokens
    assert first.finished_s == pytest.approx(steps * (BETWEEN_S + STEP_S), abs=1e-6)
    assert run.steps[0].scheduled == ((0, 0, first.prompt_tokens),)
    assert run.steps[0].seconds == pytest.approx(STEP_S, abs=1e-6)
    assert run.steps[0].model_s == pytest.approx(MODEL_S, abs=1e-6)
    assert len(run.steps) == sum(request.output_tokens for request in run.requests)


def test_experts_counted_before_a_run_are_those_it_is_simulated_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    favourites = [[9, 9, *[0] * 30]] * 6

    class Counting(Engine):
        def run(self, name: str, *args: Any, **options: Any) -> dict[str, Any]:
            self._note({"kind": "experts", "tokens": [[9, 9]] if name == "flood" else favourites})
            return super().run(name, *args, **options)

    monkeypatch.setattr(recording, "LiveEngine", Counting)
    options = {"max_num_seqs": 8, "max_num_batched_tokens": 8}
    setup = EngineSetup(Path("python"), device="cuda", options=options)
    campaign = Campaign((load_called("light"),), 1, seconds=2.0, flood=4)
    (file,) = record(architecture("moe"), campaign, setup, tmp_path)
    run = load(file)
    assert run.experts == tuple(map(tuple, favourites))
    config = json.loads((tmp_path / "moe" / "config.json").read_text(encoding="utf-8"))
    config |= {"num_experts_per_tok": 1, "moe_intermediate_size": 65536}  # weights that take long

    def experts_s(run: LiveRun) -> float:
        rows = serve_live(run, config, "h100_sxm").step_model.cost_breakdown(SHAPE)
        return sum(row.seconds for row in rows if row.label == "experts")

    counted, even = experts_s(run), experts_s(replace(run, experts=()))
    assert counted < 0.5 * even  # two experts against 32 * (1 - (31/32)**8), which is seven


def test_a_load_is_the_same_every_time_and_as_dense_as_asked() -> None:
    for one in LOADS:
        found = one.requests(8.0, 400, 1000)
        assert found == one.requests(8.0, 400, 1000)
        assert found[0][0] == 0.0
        assert found[-1][0] == pytest.approx(400 / 8.0, rel=0.15)
        prompts, outputs = {len(p) for _, p, _ in found}, {n for *_, n in found}
        assert (min(prompts), max(prompts)) == pytest.approx(one.prompt_tokens, abs=8)
        assert (min(outputs), max(outputs)) == pytest.approx(one.output_tokens, abs=4)
        assert all(3 <= token < 1000 for _, prompt, _ in found for token in prompt)
        assert {at for at, *_ in one.flood(5, 1000)} == {0.0}
    with pytest.raises(UnknownNameError, match="did you mean 'busy'"):
        load_called("bussy")
    with pytest.raises(UnknownNameError, match="did you mean 'mla'"):
        architecture("mlaa")
    assert all((one.folder / "config.json").is_file() for one in ARCHITECTURES)


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    folder = architecture("dense-gqa").folder
    with pytest.raises(InputError, match="absent: cannot be run"):
        LiveEngine(folder, EngineSetup(tmp_path / "absent", "cuda"), tmp_path / "record")
    with pytest.raises(UnsupportedError, match="the client needs one"):
        EngineSetup(Path(sys.executable), threads=10_000).cores()
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed here")
    with pytest.raises(InputError, match=r"the engine stopped: .*No module named 'vllm'"):
        LiveEngine(folder, EngineSetup(Path(sys.executable), "cuda"), tmp_path / "record")
