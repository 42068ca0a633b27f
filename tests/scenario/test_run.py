"""A scenario built and run: from Python, and to files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from servesim import Result, Scenario, simulate
from servesim.errors import CapacityError, InputError, UnknownNameError, UnsupportedError
from servesim.scenario.build import build
from servesim.scenario.files import write_results, write_text
from servesim.scenario.run import Simulation
from servesim.scenario.summary import summarise
from servesim.scenario.typical import typical_steps

SMALL: dict[str, Any] = {
    "model": "Qwen/Qwen3-0.6B",
    "hardware": "h100_sxm",
    "workload": {"kind": "burst", "num_requests": 6, "prompt_tokens": 100, "output_tokens": 20},
}


@pytest.fixture(scope="module")
def result() -> Result:
    return simulate(**SMALL)


def test_every_request_is_served(result: Result) -> None:
    assert (result.metrics.requests, result.metrics.finished) == (6, 6)
    assert sum(result.sources.values()) == pytest.approx(1.0)


def test_the_deployment_follows_from_model_device_and_options(result: Result) -> None:
    (one,) = result.deployment.served
    # Qwen3-0.6B's config.json: 28 layers of 8 KV heads, 128 wide, keys and values in bf16.
    assert one.graph.kv_bytes_per_token == 28 * 8 * (128 + 128) * 2
    assert one.config.max_model_len == one.graph.max_model_len == 40960
    blocks = one.engines[0].blocks
    assert blocks == int(one.memory.kv_cache_bytes // (16 * one.graph.kv_bytes_per_token))


def test_engine_options_reach_the_engine_and_the_memory() -> None:
    options = {"max_model_len": 500, "kv_cache_dtype": "fp8", "gpu_memory_utilization": 0.5}
    plain = build(Scenario.of(**SMALL)).served[0]
    given = build(Scenario.of(**SMALL, engine=options)).served[0]
    assert given.config.max_model_len == 500
    assert given.graph.kv_bytes_per_token == plain.graph.kv_bytes_per_token / 2
    capacity = given.device.memory.capacity_bytes
    assert plain.memory.kv_cache_bytes - given.memory.kv_cache_bytes == pytest.approx(
        0.4 * capacity
    )


def test_copies_share_the_work_and_number_their_names() -> None:
    got = simulate(**SMALL, instance=[{"name": "gpu", "count": 3}])
    assert [one.name for one in got.records.instances] == ["gpu-0", "gpu-1", "gpu-2"]
    assert sorted(got.records.requests.column("instance").tolist()) == [0, 0, 1, 1, 2, 2]


def test_two_runs_of_a_deployment_are_equal(result: Result) -> None:
    again = Simulation(result.deployment).run()
    assert summarise(again) == summarise(result)


def test_the_typical_step_is_the_average_decode_step(result: Result) -> None:
    (step,) = typical_steps(result)
    # Six requests of 100 tokens decode 19 times each: contexts 100 to 118 before the steps.
    assert (step.sequences, step.context) == (6, 109)
    model = result.deployment.served[0].step_model
    assert step.seconds == pytest.approx(model.decode_seconds(6, 6 * 109, 109))
    seconds = [cost.seconds for cost in step.costs]
    assert seconds == sorted(seconds, reverse=True)


def test_without_decodes_there_is_no_typical_step() -> None:
    one_token = {**SMALL["workload"], "output_tokens": 1}
    assert typical_steps(simulate(**{**SMALL, "workload": one_token})) == []


def test_a_slower_link_makes_tensor_parallel_steps_slower() -> None:
    parallel = {**SMALL, "engine": {"tensor_parallel_size": 2}}
    slow = {"device": "h100_sxm", "link": {"bandwidth": 1e9, "latency": 1e-5}}
    assert simulate(**parallel).metrics.makespan_s < (
        simulate(**{**parallel, "hardware": slow}).metrics.makespan_s
    )


def test_a_request_that_can_never_run_is_rejected_and_counted() -> None:
    lengths = {"kind": "empirical", "values": [100, 60_000]}
    workload = {**SMALL["workload"], "prompt_tokens": lengths, "num_requests": 20}
    got = simulate(**{**SMALL, "workload": workload})
    assert got.metrics.finished + got.metrics.rejected == 20
    assert got.metrics.rejected > 0
    assert "max_model_len is 40960" in summarise(got)["requests"]["first_rejected_because"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "Qwen/Qwen3-0.66B"}, UnknownNameError, "did you mean 'Qwen/Qwen3-0.6B'"),
        ({"hardware": "h101_sxm"}, UnknownNameError, "did you mean 'h100_sxm'"),
        ({"model": "meta-llama/Llama-3.1-405B"}, CapacityError, "does not fit: it needs"),
        ({"engine": {"max_model_len": 50_000}}, InputError, "longer than the context"),
        ({"engine": {"tensor_parallel_size": 3}}, UnsupportedError, "do not divide"),
        ({"hardware": {"device": "h100_sxm", "link": {"speed": 1}}}, InputError, "'speed'"),
        ({"hardware": {"device": "h100_sxm", "profile": "gone"}}, InputError, "no such folder"),
        ({"router": {"kind": "rr"}}, UnknownNameError, "unknown router 'rr'"),
        ({"workload": {"prompt_tokens": "norm:mean=3"}}, UnknownNameError, "length distribution"),
        ({"disaggregation": {"transfer": "layerwise"}}, InputError, "roles prefill and decode"),
        ({"autoscaling": {"high": 40}}, InputError, "needs several instances"),
        ({"hardware": "v100_sxm"}, UnsupportedError, "give .model. dtype fp16 or fp32"),
    ],
)
def test_what_cannot_be_built(change: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        simulate(**{**SMALL, **change})


def test_result_files(result: Result, tmp_path: Path) -> None:
    files = write_results(result, tmp_path / "out")
    assert [file.name for file in files] == ["requests.csv", "steps.csv", "summary.json"]
    requests = list(csv.DictReader(files[0].open()))
    assert [row["status"] for row in requests] == ["finished"] * 6
    for row in requests:
        first, last = float(row["first_token_s"]), float(row["finished_s"])
        assert float(row["ttft_s"]) == pytest.approx(first - float(row["arrival_s"]))
        assert float(row["tpot_s"]) == pytest.approx((last - first) / 19, abs=1e-9)
    steps = list(csv.DictReader(files[1].open()))
    assert sum(int(row["prefill_tokens"]) for row in steps) == 600
    assert sum(int(row["decodes"]) for row in steps) == 6 * 19
    summary = json.loads(files[2].read_text())
    assert summary["latency_s"]["e2e"]["mean"] == pytest.approx(result.metrics.e2e.mean)
    assert sorted(tmp_path.rglob("*unfinished*")) == []


def test_same_seed_same_bytes(result: Result, tmp_path: Path) -> None:
    first = write_results(result, tmp_path / "a")
    second = write_results(simulate(**SMALL), tmp_path / "b")
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_another_seed_gives_other_requests(tmp_path: Path) -> None:
    lengths = {"kind": "lognormal", "mean": 100}
    drawn = {**SMALL, "workload": {**SMALL["workload"], "prompt_tokens": lengths}}
    scenario = Scenario.of(**drawn)
    other = scenario.changed(workload={"seed": 1})
    one, two = (
        write_results(simulate(s), tmp_path / str(i)) for i, s in enumerate((scenario, other))
    )
    assert one[0].read_bytes() != two[0].read_bytes()


def test_results_replace_earlier_ones_and_touch_nothing_else(
    result: Result, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "summary.json").write_text("old")
    (tmp_path / "tiers.csv").write_text("of a run with tiers")
    write_results(result, tmp_path)
    assert not (tmp_path / "tiers.csv").exists()
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert json.loads((tmp_path / "summary.json").read_text())["scenario"] == "qwen3-0.6b"


def test_a_file_that_breaks_off_is_not_left_behind(tmp_path: Path) -> None:
    def pieces() -> Any:
        yield "half"
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_text(pieces(), tmp_path / "trace.json")
    assert list(tmp_path.iterdir()) == []
