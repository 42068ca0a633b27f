"""The project's own recordings of transformers, held against the simulator."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from servesim.validation.live.compare import LiveComparison, compare_folder
from servesim.validation.report.sections import live_transformers

OWN = Path(__file__).parents[3] / "validation" / "own" / "transformers" / "epyc-zen5"
#: Median error of a step, as reached; the host's time is fitted to the steps of ``dense-gqa``.
REACHED = {"dense-gqa": 0.025, "mha-layernorm": 0.05}


@cache
def compared() -> LiveComparison:
    return compare_folder(OWN)


def test_everything_recorded_can_be_simulated() -> None:
    assert compared().models == tuple(REACHED)
    assert not compared().failures
    assert [(one.load, len(one.results)) for one in compared().loads] == [
        ("light", 2),
        ("busy", 2),
        ("light", 2),
        ("busy", 2),
    ]


def test_every_run_is_decided_alike() -> None:
    for one in compared().loads:
        assert all(run.first_difference is None for run in one.decisions)
        assert min(run.steps for run in one.decisions) > 100


def test_with_the_recorded_steps_every_request_is_on_time() -> None:
    for one in compared().loads:
        for replayed in one.replays:
            assert replayed is not None
            assert replayed.within == replayed.requests


@pytest.mark.parametrize("model", REACHED)
def test_steps_are_as_long_as_predicted(model: str) -> None:
    assert compared().steps[model]["all"].median < REACHED[model]


def test_the_report_has_a_section_of_them_with_its_misses(tmp_path: Path) -> None:
    text = live_transformers.body(tmp_path)
    assert text is not None
    assert "| 5.17 | 2,004 | identical |" in text
    assert "In all 8 runs, 2,048 steps." in text
    assert "decide every step as transformers did" in text
    for model in REACHED:
        assert f"| {model}" in text
    assert "(missed)" in text
