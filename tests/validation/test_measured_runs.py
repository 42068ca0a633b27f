"""Measured vLLM runs, replayed with the layer latencies of their device."""

import json
from pathlib import Path

import pytest

from servesim.cli.main import main
from servesim.errors import InputError
from servesim.validation.compare import STATISTICS
from servesim.validation.readers import read_run
from servesim.validation.run import RunOptions, RunResult, simulate_run

SHARED = Path(__file__).parents[3] / "shared"
RUNS = SHARED / "serving" / "vllm-0.19"
H100 = SHARED / "serving" / "h100-vllm-0.15"
PROFILE = SHARED / "profiles" / "RTXPRO6000"
NAMES = ("rtxpro6000-llama-3.1-8b", "rtxpro6000-qwen3-32b-tp2")

needs_runs = pytest.mark.skipif(not RUNS.is_dir(), reason=f"no measured runs in {RUNS}")


@pytest.fixture(scope="module", params=NAMES)
def result(request: pytest.FixtureRequest) -> RunResult:
    return simulate_run(read_run(RUNS / request.param), RunOptions(profile=PROFILE))


@needs_runs
def test_means_percentiles_and_single_requests_agree(result: RunResult) -> None:
    comparison = result.comparison
    for latency, aim in (("ttft", 0.03), ("tpot", 0.015), ("e2e", 0.015)):
        statistics = comparison.metrics[latency]
        assert abs(statistics["mean"].error) < aim, latency
        for name in STATISTICS:
            assert abs(statistics[name].error) < 0.05, (latency, name)
    assert comparison.per_request_mape["e2e"] < 0.025
    assert abs(comparison.makespan.error) < 0.015


@needs_runs
def test_the_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "run", str(RUNS / NAMES[0]), "--profile", str(PROFILE), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["metrics"]) == {"ttft", "tpot", "e2e"}
    assert set(found["metrics"]["ttft"]) == set(STATISTICS)
    assert set(found["metrics"]["e2e"]["p99"]) == {"measured", "simulated", "error"}
    assert set(found["per_request_mape"]) == {"ttft", "tpot", "e2e"}
    assert found["wall_s"] < 10


@pytest.mark.skipif(not H100.is_dir(), reason=f"no measured runs in {H100}")
def test_runs_stamped_by_the_client_are_read_with_their_real_lengths() -> None:
    run = read_run(H100 / "20260217-231439-llama-2-7b-tp1-general.json.gz")
    assert run.clock == "server"
    assert {r.output_tokens for r in run.requests} == {248}
    assert len({r.prefix_block_ids[0] for r in run.requests}) == 100  # sent again and again


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_run(tmp_path / "nothing")
    with pytest.raises(InputError, match="no measured run of a known format"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "requests.jsonl").write_text('{"id": 0}\n')
    with pytest.raises(InputError, match=r"requests\.jsonl:1"):
        read_run(tmp_path)
