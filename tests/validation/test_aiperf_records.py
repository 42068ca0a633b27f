"""Records of AIPerf, read into the one form."""

from pathlib import Path
from typing import Any

import pytest
from client_files import times, write

from servesim.errors import InputError
from servesim.validation.readers import read_run


def aiperf_record(start_ns: int, phase: str = "profiling", **metrics: Any) -> dict[str, Any]:
    values = {
        "input_sequence_length": {"value": 100, "unit": "tokens"},
        "output_sequence_length": {"value": 3, "unit": "tokens"},
        "time_to_first_token": {"value": 500.0, "unit": "ms"},
        "request_latency": {"value": 875.0, "unit": "ms"},
        "inter_chunk_latency": {"value": [250.0, 125.0], "unit": "ms"},
    }
    return {
        "metadata": {
            "session_num": 0, "x_request_id": "u", "turn_index": 0, "request_start_ns": start_ns,
            "request_end_ns": start_ns + 875_000_000, "worker_id": "w", "benchmark_phase": phase,
            "was_cancelled": False,
        },
        "metrics": values | metrics, "error": None,
    }  # fmt: skip


FAILED = {
    "metadata": {
        "session_num": 1, "request_start_ns": 5_500_000_000, "benchmark_phase": "profiling",
        "was_cancelled": True,
    },
    "metrics": {"error_isl": {"value": 550, "unit": "tokens"}},
    "error": {"code": 499, "type": "RequestCancellationError", "message": "after 0.0 s"},
}  # fmt: skip


def test_records_of_aiperf(tmp_path: Path) -> None:
    start = 1_759_813_207_532_900_363
    records = (
        aiperf_record(start - 9_000_000_000, "warmup"),
        aiperf_record(start + 1_000_000_000, request_latency={"value": 1.5, "unit": "s"}),
        {**FAILED, "metadata": {**FAILED["metadata"], "request_start_ns": start + 7}},
        aiperf_record(start),
    )
    path = write(tmp_path / "llama-run" / "profile_export.jsonl", *records)
    summary = {"schema_version": "1.5", "input_config": {"endpoint": {"model_names": ["m/one"]}}}
    write(path.with_name("profile_export_aiperf.json"), summary)
    write(path.with_name("profile_export_aiperf.json"), {
        "schema_version": "1.5", "input_config": {"models": {"items": [{"name": "m/one"}]}},
    })  # fmt: skip
    assert read_run(path).model == "m/one"
    write(path.with_name("profile_export_aiperf.json"), summary)
    moved = write(tmp_path / "summary.json", summary | {"request_latency": {"avg": 1.0}})
    with pytest.raises(InputError, match=r"a summary; give the records .*profile_export\.jsonl"):
        read_run(moved)
    for place in (path, path.parent, path.with_name("profile_export_aiperf.json")):
        run = read_run(place)
        assert (run.name, run.model, run.clock) == ("llama-run", "m/one", "server")
        assert times(run) == [(0.0, 0.5, 0.875, 100, 3), (1.0, 1.5, 2.5, 100, 3)]
        assert run.notes == (
            "1 of 3 requests left out (RequestCancellationError: after 0.0 s): 1",
            "1 requests of the warm-up left out",
        )


def test_tokens_are_those_that_the_server_counted(tmp_path: Path) -> None:
    usage = {"usage_prompt_tokens": {"value": 117, "unit": "tokens"},
             "usage_completion_tokens": {"value": 4.0, "unit": "tokens"}}  # fmt: skip
    run = read_run(write(tmp_path / "profile_export.jsonl", aiperf_record(5, **usage)))
    assert times(run) == [(0.0, 0.5, 0.875, 117, 4)]


def test_records_that_do_not_do(tmp_path: Path) -> None:
    path = tmp_path / "profile_export.jsonl"
    write(path, aiperf_record(5, request_latency={"value": 1.5, "unit": "h"}))
    with pytest.raises(InputError, match="unit 'h' is none of"):
        read_run(path)
    write(path, {**aiperf_record(5), "metadata": "x"})
    with pytest.raises(InputError, match="no records of AIPerf"):
        read_run(path, form="aiperf")
    write(path, FAILED)
    with pytest.raises(InputError, match="no finished requests; 1 of 1 requests left out"):
        read_run(path)
    write(path, aiperf_record(5, request_latency={"value": 100.0, "unit": "ms"}), aiperf_record(9))
    assert read_run(path).notes == ("1 of 2 requests left out (its times are out of order): 0",)
    write(path, aiperf_record(5))
    path.write_text(path.read_text() + "\n{", encoding="utf-8")
    with pytest.raises(InputError, match="no measured run of a known format"):
        read_run(path)
    with pytest.raises(InputError, match=r"profile_export\.jsonl:2: not JSON"):
        read_run(path, form="aiperf")
