"""Clients that give up, from scenario to result."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from servesim import simulate
from servesim.errors import ServesimError
from servesim.scenario.files import write_results

BASE = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100_sxm",
    "workload": {"kind": "burst", "burst_size": 20, "num_requests": 20, "prompt_tokens": 500,
                 "output_tokens": 100},
    "engine": {"max_num_seqs": 10},
}  # fmt: skip


def test_who_waits_too_long_is_given_up(tmp_path: Path) -> None:
    patient = simulate(**BASE)
    last = patient.metrics.makespan_s
    result = simulate(**BASE, client={"cancel_after_s": 0.75 * last})
    assert (result.metrics.finished, result.metrics.cancelled) == (10, 10)
    write_results(result, tmp_path)
    with (tmp_path / "requests.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "cancelled"]
    assert len(rows) == 10
    assert {row["finished_s"] for row in rows} == {""}
    assert all("gave up after" in row["unfinished_because"] for row in rows)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["requests"]["cancelled"] == 10
    assert summary["requests"]["first_rejected_because"] is None


@pytest.mark.parametrize("client", [{"cancel_after_s": -1}, {"patience": 3}])
def test_bad_options_are_refused(client: dict[str, object]) -> None:
    with pytest.raises(ServesimError, match=r"cancel_after_s|patience"):
        simulate(**BASE, client=client)
