"""Engines whose device is the host itself."""

from __future__ import annotations

from servesim.scenario.load import Layer
from servesim.scenario.run import run
from servesim.scenario.spec import Scenario


def _tpot(**hardware: object) -> float:
    tables = {
        "model": {"id": "Qwen/Qwen2.5-0.5B-Instruct"},
        "hardware": {"device": "xeon_8480", **hardware},
        "workload": {"kind": "fixed_rate", "num_requests": 1, "output_tokens": 3},
        "engine": {"max_model_len": 1024},
    }
    return run(Scenario.from_layers(Layer(tables))).metrics.tpot.mean


def test_no_host_runs_ahead_of_its_own_processor() -> None:
    assert _tpot(host_step_s=0.01) - _tpot(host_step_s=0.0) > 0.0099
