"""The pace of the machine that recordings note."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from live_recordings import recording, served, write_device

from servesim.errors import InputError
from servesim.validation.live.pace import LIMITS, machine_pace, slower_by
from servesim.validation.live.recorded import from_json


def test_slower_by_the_worse_limit_in_the_median() -> None:
    paces = {
        "steady": [{"copy_s": 1.0, "compute_s": 2.0}],
        "slow": [
            {"copy_s": 1.1, "compute_s": 2.5},
            {"copy_s": 1.2, "compute_s": 2.2},
            {"copy_s": 9.0, "compute_s": 2.0},
        ],
        "not noted": [],
    }
    assert slower_by(paces) == pytest.approx({"steady": 0.0, "slow": 0.2})
    assert slower_by({"not noted": []}) == {}


def test_the_pace_is_measured_on_given_cores_and_the_process_moves_back() -> None:
    before = os.sched_getaffinity(0)
    pace = machine_pace([min(before)])
    assert os.sched_getaffinity(0) == before
    assert tuple(pace) == LIMITS and all(0 < seconds < 10 for seconds in pace.values())


@pytest.mark.parametrize("pace", [{"copy_s": 1.0}, {"copy_s": 0.0, "compute_s": 1.0}, "fast"])
def test_a_pace_that_is_none_is_refused(tmp_path: Path, pace: object) -> None:
    run = recording(served(write_device(tmp_path)), requests=[(0.0, 20, 3)])
    assert from_json({**run, "pace": None}, "run").pace == {}
    with pytest.raises(InputError, match=r"^run: "):
        from_json({**run, "pace": pace}, "run")
