"""Recording: an architecture under every load, several times, in the form that comparisons read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from servesim.hardware.measure.machine import cpu_name
from servesim.runtime.kv.hashing import PrefixHasher
from servesim.validation.live.architectures import Architecture
from servesim.validation.live.engine import EngineSetup, LiveEngine
from servesim.validation.live.loads import Load, Request
from servesim.validation.live.pace import machine_pace
from servesim.validation.live.recorded import FORMAT, SHARED_BLOCK, save

#: What every engine is given unless the architecture says otherwise.
OPTIONS: Mapping[str, Any] = {
    "load_format": "dummy",
    "skip_tokenizer_init": True,
    "dtype": "bfloat16",
    "enforce_eager": True,
    "block_size": 32,
    "max_model_len": 1024,
    "max_num_seqs": 32,
    "max_num_batched_tokens": 512,
}
#: What an engine is given beside: how it schedules, and what of it is not modelled.
ENGINE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "vllm": {},
    "transformers": {
        "scheduling_policy": "transformers-fifo",
        "enable_prefix_caching": False,
        "async_scheduling": False,
    },
}
#: Of those, what a simulation has no use for.
_NOT_SIMULATED = ("load_format", "skip_tokenizer_init")


@dataclass(frozen=True)
class Campaign:
    """What to record.

    Attributes:
        repeats: equal runs of each load, interleaved with those of the others.
        seconds: how long the arrivals of a run last.
        flood: requests that arrive at once, to find the rate that the engine can keep up with.
    """

    loads: Sequence[Load]
    repeats: int = 3
    seconds: float = 20.0
    flood: int = 64


def record(
    architecture: Architecture,
    campaign: Campaign,
    setup: EngineSetup,
    out: Path,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Run ``architecture`` on a live engine; returns the files written, one a run.

    Args:
        out: gets ``<architecture>/config.json`` and ``<architecture>/<load>/<repeat>.json.gz``.
        say: is told of each run as it begins.

    Raises:
        InputError: the engine did not start, or died.
    """
    folder = out / architecture.name
    folder.mkdir(parents=True, exist_ok=True)
    text = (architecture.folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text, encoding="utf-8")
    vocabulary = int(json.loads(text)["vocab_size"])
    setup = replace(setup, options=_options(architecture, setup))
    files = []
    with LiveEngine(architecture.folder, setup, folder / "record") as engine:
        say(f"{architecture.name}: warm-up")
        engine.run("warm-up", _warm_up(setup.options, vocabulary), in_turn=True)
        wanted = _wanted(architecture, campaign, engine, vocabulary, say)
        for repeat in range(1, campaign.repeats + 1):
            for load, requests in wanted.items():
                say(f"{architecture.name}: {load.name} {repeat}, {len(requests)} requests")
                name = f"{load.name}-{repeat}"
                about: dict[str, Any] = {
                    "model": architecture.name,
                    "load": load.name,
                    "repeat": repeat,
                }
                about["pace"] = _pace(setup)
                seen = engine.run(name, requests)
                lines = _lines(engine.record)
                run = _form(seen, lines, about, setup, engine.version) | _experts(lines)
                if load.prefixes:
                    run["requests"]["shared"] = shared_blocks([prompt for _, prompt, _ in requests])
                files.append(folder / load.name / f"{repeat}.json.gz")
                save(run, files[-1])
    engine.record.unlink()
    engine.record.with_suffix(".log").unlink()
    return files


def _wanted(
    architecture: Architecture,
    campaign: Campaign,
    engine: LiveEngine,
    vocabulary: int,
    say: Callable[[str], None],
) -> dict[Load, list[Request]]:
    """The requests of each load, at its share of the rate that the engine can keep up with."""
    wanted = {}
    most: dict[Any, float] = {}  # requests a second by their lengths
    for load in campaign.loads:
        lengths = load.prompt_tokens, load.output_tokens
        if lengths not in most:
            say(f"{architecture.name}: {load.name}, flood")
            seen = engine.run("flood", load.flood(campaign.flood, vocabulary))
            most[lengths] = campaign.flood / _took(seen)
        rate = load.utilisation * most[lengths]
        count = max(8, round(rate * campaign.seconds))
        wanted[load] = load.requests(rate, count, vocabulary)
    return wanted


def _pace(setup: EngineSetup) -> dict[str, float] | None:
    """Of the engine's cores; an accelerator is nobody else's."""
    return machine_pace(setup.cores()[0]) if setup.device == "cpu" else None


def _warm_up(options: Mapping[str, Any], vocabulary: int) -> list[Request]:
    """A prompt of every length that a step may have: libraries prepare kernels for each once."""
    most = min(int(options["max_num_batched_tokens"]), int(options["max_model_len"]) - 1)
    return [(0.0, [3 + i % (vocabulary - 3)] * i, 1) for i in range(1, most + 1)]


def _options(architecture: Architecture, setup: EngineSetup) -> dict[str, Any]:
    options = {
        **OPTIONS,
        **ENGINE_OPTIONS[setup.engine],
        **architecture.options,
        **setup.options,
    }
    if "num_gpu_blocks_override" not in options:
        options["num_gpu_blocks_override"] = architecture.kv_tokens // options["block_size"]
    return {name: value for name, value in options.items() if value is not None}


def _took(seen: Mapping[str, Any]) -> float:
    """Seconds from the first request sent to the last one finished."""
    rows = seen["requests"]
    return float(max(row[3] for row in rows) - min(row[1] for row in rows))


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _form(
    seen: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    setup: EngineSetup,
    version: str,
) -> dict[str, Any]:
    """What the client saw and the scheduler noted, as one recorded run."""
    start, number = seen["start"], {}
    for i, row in enumerate(seen["requests"]):
        number[row[0]] = i
    # The async engine appends a suffix of its own to the names of requests.
    named = {_named(line["id"], number): line["s"] for line in lines if line["kind"] == "queued"}
    steps = [
        line
        for line in lines
        if line["kind"] == "step" and _named(line["scheduled"][0][0], number) is not None
    ]
    return {
        "format": FORMAT,
        **about,
        "date": date.today().isoformat(),
        "engine_version": version,
        "machine": {"processor": cpu_name(), "threads": setup.threads, "device": setup.device},
        "engine": {
            **{name: v for name, v in setup.options.items() if name not in _NOT_SIMULATED},
            **_engine(lines[0]),
        },
        "requests": _requests(seen["requests"], named, steps, number, start),
        "steps": _steps(steps, number, start),
    }


def _experts(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was last counted of experts, if anything was."""
    counted = [line["tokens"] for line in lines if line["kind"] == "experts"]
    return {"experts": counted[-1]} if counted else {}


def _named(name: str, number: Mapping[str, int]) -> int | None:
    """Number of the request that the engine calls ``name``; None if it is not of this run."""
    while name:
        if name in number:
            return number[name]
        name = name.rpartition("-")[0]
    return None


def _engine(line: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the engine settled them."""
    found = {name: value for name, value in line.items() if name not in ("kind", "num_gpu_blocks")}
    return {**found, "num_gpu_blocks_override": line["num_gpu_blocks"]}


def _requests(
    rows: Sequence[Sequence[Any]],
    queued: Mapping[int | None, float],
    steps: Sequence[Mapping[str, Any]],
    number: Mapping[str, int],
    start: float,
) -> dict[str, list[Any]]:
    """One column a field: when its tokens came is when the step that made them ended."""
    first: dict[int, float] = {}
    tokens: dict[int, list[float]] = {i: [] for i in range(len(rows))}
    prompt = [row[4] for row in rows]
    for step in steps:
        for name, computed, count in step["scheduled"]:
            i = _named(name, number)
            assert i is not None
            first.setdefault(i, step["start"])
            if computed + count >= prompt[i] + len(tokens[i]):
                tokens[i].append(step["end"])
    count = range(len(rows))
    return {
        "arrival_s": [_round(row[1] - start) for row in rows],
        "queued_s": [_round(queued[i] - start) for i in count],
        "scheduled_s": [_round(first[i] - start) for i in count],
        "first_token_s": [_round(tokens[i][0] - start) for i in count],
        "finished_s": [_round(tokens[i][-1] - start) for i in count],
        "prompt_tokens": prompt,
        "output_tokens": [row[5] for row in rows],
    }


def shared_blocks(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of each prompt, the identities of its leading blocks that another prompt has, too."""
    hasher = PrefixHasher(SHARED_BLOCK)
    found = [hasher.identities(prompt) for prompt in prompts]
    counts = Counter(one for row in found for one in row)
    return [[one for one in row if counts[one] > 1] for row in found]


def _steps(
    steps: Sequence[Mapping[str, Any]], number: Mapping[str, int], start: float
) -> dict[str, list[Any]]:
    return {
        "start_s": [_round(step["start"] - start) for step in steps],
        "end_s": [_round(step["end"] - start) for step in steps],
        "model_s": [_round(step["model_end"] - step["model_start"]) for step in steps],
        "scheduled": [
            [[_named(name, number), computed, count] for name, computed, count in step["scheduled"]]
            for step in steps
        ],
        "preempted": [[_named(name, number) for name in step["preempted"]] for step in steps],
        "free_blocks": [step["free"] for step in steps],
    }


def _round(seconds: float) -> float:
    """To microseconds: finer than the clock's noise, and a third of the file."""
    return round(seconds, 6)
