"""The installed transformers, driven and recorded from end to end with a tiny model."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest

from servesim.validation.json_files import read_object
from servesim.validation.live.architectures import Architecture
from servesim.validation.live.decisions import replay_decisions
from servesim.validation.live.engine import EngineSetup
from servesim.validation.live.loads import Load
from servesim.validation.live.record import Campaign, record
from servesim.validation.live.recorded import load
from servesim.validation.live.replay import replay_times
from servesim.validation.live.served import serve_live
from servesim.validation.live.step_times import step_times

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 512,
}
OPTIONS = {
    "block_size": 4,
    "max_num_seqs": 6,
    "max_num_batched_tokens": 12,
    "max_model_len": 64,
    "num_gpu_blocks_override": 14,
}
VERSION = tuple(map(int, importlib.metadata.version("transformers").split(".")[:2]))
pytestmark = [
    pytest.mark.skipif(VERSION < (5, 20), reason="its scheduler has other rules"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the client needs a core"),
]


def test_a_recorded_run_is_decided_and_timed_alike(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(TINY))
    tiny = Architecture("tiny", False, place=tmp_path / "tiny")
    campaign = Campaign([Load("full", 2.0, (2, 20), (4, 24))], repeats=1, seconds=0.2, flood=8)
    setup = EngineSetup(Path(sys.executable), options=OPTIONS, engine="transformers")
    (path,) = record(tiny, campaign, setup, tmp_path / "out")
    run = load(path)
    assert run.engine["fused"] is False
    assert any(step.preempted for step in run.steps)
    served = serve_live(run, read_object(tmp_path / "tiny" / "config.json"), "xeon_8480")
    decisions = replay_decisions(run, served)
    assert decisions.first_difference is None
    assert decisions.steps == len(run.steps) > 20
    replayed = replay_times(run, served)
    assert replayed.within == replayed.requests == len(run.requests) >= 8
    assert (step_times(run, served).operators > 0).all()
