"""Runs measured by load clients, in their own formats, read into the one form."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from client_files import times, write

from servesim.cli.main import main
from servesim.errors import InputError, UnknownNameError
from servesim.validation.readers import READERS, read_run

# vLLM 0.32's result with --save-detailed; the second request was refused by the server.
BENCH: dict[str, Any] = {
    "date": "20261124-090113", "endpoint_type": "vllm", "backend": "vllm", "label": None,
    "model_id": "Qwen/Qwen3-0.6B", "tokenizer_id": "Qwen/Qwen3-0.6B", "num_prompts": 3,
    "request_rate": 8.0, "burstiness": 1.0, "max_concurrency": None, "duration": 2.0,
    "completed": 2, "failed": 1, "request_throughput": 1.0,
    "input_lens": [100, 9000, 50], "output_lens": [3, 0, 1],
    "ttfts": [0.5, 0.0, 0.25], "itls": [[0.25, 0.125], [], []],
    "latencies": [0.875, 0.0, 0.25], "start_times": [1001.0, 1001.5, 1000.0],
    "queue_times": [0.0, 0.0, 0.0], "generated_texts": ["a b c", "", "d"],
    "errors": ["", "Traceback (most recent call last):\n  ...\nValueError: Bad Request\n", ""],
}  # fmt: skip


def guide_request(start: float, tokens: tuple[int, int] = (100, 3)) -> dict[str, Any]:
    """As GuideLLM 0.4 and later write it."""
    return {
        "type_": "generative_request_stats", "request_id": "r", "request_args": "{}",
        "info": {"status": "completed", "error": None, "timings": {
            "queued": start - 1, "request_start": start, "first_token_iteration": start + 0.5,
            "last_token_iteration": start + 0.875, "request_end": start + 1.0,
        }},
        "input_metrics": {"text_tokens": tokens[0]}, "output_metrics": {"text_tokens": tokens[1]},
        "prompt_tokens": tokens[0], "output_tokens": tokens[1],
    }  # fmt: skip


def guide_benchmark(
    successful: list[dict[str, Any]], errored: list[dict[str, Any]] | None = None, rate: float = 2.0
) -> dict[str, Any]:
    totals = {"successful": len(successful), "errored": len(errored or []), "incomplete": 0}
    return {
        "type_": "generative_benchmark",
        "config": {
            "strategy": {"type_": "poisson", "rate": rate},
            "backend": {"type_": "openai_http", "model": "Qwen/Qwen3-0.6B"},
        },
        "metrics": {"request_totals": totals},
        "requests": {"successful": successful, "incomplete": [], "errored": errored or []},
    }


def guide_report(*benchmarks: dict[str, Any]) -> dict[str, Any]:
    return {"args": {"target": "http://localhost:8000", "model": None}, "benchmarks": benchmarks}


def test_a_result_of_vllm_bench_serve(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "bench.json", BENCH))
    assert (run.model, run.clock, run.hardware, run.engine) == ("Qwen/Qwen3-0.6B", "server", "", {})
    # By arrival, from zero: 1000 s is the start, the first token 0.25 s later.
    assert times(run) == [(0.0, 0.25, 0.25, 50, 1), (1.0, 1.5, 1.875, 100, 3)]
    assert run.notes == ("1 of 3 requests left out (ValueError: Bad Request): 1",)


def test_results_appended_to_one_file_are_told_apart(tmp_path: Path) -> None:
    other = {**BENCH, "request_rate": "inf", "start_times": [1.0, 2.0, 3.0]}
    path = write(tmp_path / "bench.json", BENCH, other)
    with pytest.raises(InputError, match=r"2 results, say which with --part \(1: request_rate 8.0"):
        read_run(path)
    with pytest.raises(InputError, match="no part 3"):
        read_run(path, part=3)
    assert [r.id for r in read_run(path, part=2).requests] == [0, 2]


def test_a_result_without_detail_says_how_to_get_it(tmp_path: Path) -> None:
    brief = {key: value for key, value in BENCH.items() if key not in ("itls", "start_times")}
    with pytest.raises(InputError, match=r"itls, start_times missing: .*--save-detailed"):
        read_run(write(tmp_path / "bench.json", brief))
    ragged = {**BENCH, "ttfts": [0.5]}
    with pytest.raises(InputError, match=r"unequal lengths: .*'ttfts': 1"):
        read_run(write(tmp_path / "bench.json", ragged))


@pytest.mark.parametrize("value", [None, -1, 1e300, "x", True, {}])
def test_a_result_with_another_type_is_refused(tmp_path: Path, value: Any) -> None:
    for key in ("input_lens", "ttfts", "itls", "start_times", "errors"):
        path = write(tmp_path / "bench.json", {**BENCH, key: value})
        with pytest.raises(InputError, match=f"{key} must be a list"):
            read_run(path)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("input_lens", 1e300, " prompt and "),
        ("ttfts", float("inf"), "its times are out of order"),
        ("start_times", float("nan"), "its times are out of order"),
    ],
)
def test_a_request_with_impossible_numbers_is_left_out(
    tmp_path: Path, key: str, value: float, reason: str
) -> None:
    path = write(tmp_path / "bench.json", {**BENCH, key: [value, *BENCH[key][1:]]})
    run = read_run(path)
    assert len(run.requests) == 1
    assert any(reason in note for note in run.notes)


def test_a_report_of_guidellm(tmp_path: Path) -> None:
    plain = {**guide_request(1.7e9 + 2), "prompt_tokens": 7}
    unstreamed = guide_request(1.7e9)
    unstreamed["info"]["timings"]["first_token_iteration"] = None
    failed = {**guide_request(1.7e9), "info": {"status": "errored", "error": "timeout"}}
    report = guide_report(guide_benchmark([plain, guide_request(1.7e9 + 1), unstreamed], [failed]))
    write(tmp_path / "benchmarks.json", report)
    for path in (tmp_path, tmp_path / "benchmarks.json"):
        run = read_run(path)
        assert (run.model, run.clock, run.source) == ("Qwen/Qwen3-0.6B", "server", "GuideLLM")
        # The end is the last token's time, not that of the connection.
        assert times(run) == [(0.0, 0.5, 0.875, 100, 3), (1.0, 1.5, 1.875, 7, 3)]
        assert len(run.notes) == 2
        assert run.notes[0].startswith("1 of 4 requests left out (no time of a first token")
        assert run.notes[1] == "1 of 4 requests left out (errored: timeout): 3"


@pytest.mark.parametrize(
    "request_", [
        {"start_time": 5.0, "first_token_time": 5.5, "last_token_time": 5.875, "end_time": 6.0,
         "prompt_tokens": 100, "output_tokens": 3},
        {"scheduler_info": {"request_timings": {"request_start": 5.0, "first_iteration": 5.5,
         "last_iteration": 5.875, "request_end": 6.0}}, "prompt_tokens": 100, "output_tokens": 3},
    ],
)  # fmt: skip
def test_requests_of_earlier_guidellms(tmp_path: Path, request_: dict[str, Any]) -> None:
    run = read_run(write(tmp_path / "old.json", guide_report(guide_benchmark([request_]))))
    assert times(run) == [(0.0, 0.5, 0.875, 100, 3)]


def test_a_sweep_and_a_sample(tmp_path: Path) -> None:
    benchmarks = [guide_benchmark([guide_request(float(rate))], rate=rate) for rate in (1, 2)]
    path = write(tmp_path / "sweep.json", guide_report(*benchmarks))
    with pytest.raises(InputError, match=r"1: poisson 1, 2: poisson 2"):
        read_run(path)
    assert len(read_run(path, part=2).requests) == 1
    sampled = guide_benchmark([guide_request(1.0)])
    sampled["metrics"]["request_totals"]["successful"] = 50
    with pytest.raises(InputError, match="lists 1 of 50 requests"):
        read_run(write(tmp_path / "sampled.json", guide_report(sampled)))


def bench_row(**values: Any) -> dict[str, Any]:
    """vLLM's own statistics of a request, by their names."""
    return {
        "request_id": "0", "queued_ts": 10.0, "scheduled_ts": 10.1, "first_token_ts": 10.5,
        "last_token_ts": 10.875, "num_prompt_tokens": 40, "num_generation_tokens": 3,
    } | values  # fmt: skip


def test_a_bench_folder_of_llmservingsim(tmp_path: Path) -> None:
    ids = list(range(40))
    rows = bench_row(prompt_token_ids=ids), bench_row(prompt_token_ids=[*ids[:16], 9, 9])
    late = bench_row(queued_ts=9.0, num_generation_tokens=0)
    folder = tmp_path / "Llama-3.1-8B"
    write(folder / "vllm" / "requests.jsonl", *rows, late)
    run = read_run(folder)
    assert (run.clock, run.model, run.name) == ("engine", "", "Llama-3.1-8B")
    assert [r.prefix_block_ids for r in run.requests] == [(0, 1), (0,)]
    assert run.notes == ("1 of 3 requests left out (no output): 2",)
    about = {"model": "m", "hardware": "RTXPRO6000",
             "engine": {"max_num_seqs": 8, "dtype": "bfloat16", "max_model_len": None}}  # fmt: skip
    write(folder / "vllm" / "meta.json", about)
    run = read_run(folder)
    assert (run.model, run.hardware, run.engine) == ("m", "RTXPRO6000", {"max_num_seqs": 8})
    assert run.notes[-1] == "engine options that are not used: dtype"
    write(folder / "vllm" / "requests.jsonl", {"queued_ts": 1.0, "first_token_ts": 2.0})
    with pytest.raises(
        InputError, match=r"jsonl:1: no finished: none of finished_s, last_token_ts"
    ):
        read_run(folder)


def test_the_shared_runs_rows_are_such_a_folder(tmp_path: Path) -> None:
    source = Path(__file__).parents[3] / "shared/serving/vllm-0.19/rtxpro6000-llama-3.1-8b"
    if not source.is_dir():
        pytest.skip(f"no measured run in {source}")
    rows = (source / "requests.jsonl").read_text(encoding="utf-8")
    (tmp_path / "requests.jsonl").write_text(rows, encoding="utf-8")
    assert times(read_run(tmp_path)) == times(read_run(source))


def test_formats_are_told_apart_or_named(tmp_path: Path) -> None:
    both = guide_report(guide_benchmark([guide_request(1.0)])) | BENCH
    path = write(tmp_path / "both.json", both)
    with pytest.raises(
        InputError, match="could be guidellm or vllm_bench: say which with --format"
    ):
        read_run(path)
    assert len(read_run(path, form="guidellm").requests) == 1
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(json.dumps(BENCH).encode()))
    assert len(read_run(tmp_path / "packed.json.gz").requests) == 2
    unknown = write(tmp_path / "other.json", {"hello": 1})
    with pytest.raises(InputError, match=rf"known format \({', '.join(READERS.names())}\)"):
        read_run(unknown)
    with pytest.raises(UnknownNameError, match="part"):
        read_run(unknown, form="blis", part=1)


def test_flags_supply_what_a_client_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "bench.json", {**BENCH, "model_id": "served-name"}))
    assert main(["validate", "run", path]) == 2
    assert "no device is named: give --hardware" in capsys.readouterr().err
    assert main(["validate", "run", path, "--hardware", "h100_sxm"]) == 2
    assert "unknown model 'served-name'" in capsys.readouterr().err
    asked = ["validate", "run", path, "--hardware", "h100_sxm", "--model", "Qwen/Qwen3-0.6B"]
    assert main([*asked, "--max-num-seqs", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["hardware"]) == (2, "h100_sxm")
    assert found["notes"] == ["1 of 3 requests left out (ValueError: Bad Request): 1"]
    assert found["metrics"]["ttft"]["mean"]["measured"] == pytest.approx(0.375)


def test_the_page_names_every_format() -> None:
    page = Path(__file__).parents[2] / "docs" / "measured-runs.md"
    text = page.read_text(encoding="utf-8")
    assert [name for name in READERS.names() if f"| `{name}` |" not in text] == []
