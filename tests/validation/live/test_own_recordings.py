"""The project's own recordings of vLLM, held against the simulator; needs nothing but the tree."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from servesim.validation.live.compare import LiveComparison, LoadComparison, compare_folder
from servesim.validation.live.recorded import DEVICE
from servesim.validation.report.live_tables import MEAN_AIM, STEP_AIM
from servesim.validation.report.sections.live import OWN

FOLDERS = sorted(path.parent for path in OWN.glob(f"*/{DEVICE}"))
CASES = [
    (folder, model.name, load.name)
    for folder in FOLDERS
    for model in sorted(path for path in folder.iterdir() if path.is_dir())
    for load in sorted(path for path in model.iterdir() if path.is_dir())
]
NOTHING = pytest.mark.skip(reason=f"no recordings in {OWN}")

#: Bounds of what misses its aim, as reached: of steps by ``machine/model``, of means by
#: ``machine/model/load/latency``.
REACHED: dict[str, float] = {
    # What its attention takes in Python is in no kernel; it shapes the cost model, and is seen.
    "epyc-zen5/mla/light/tpot": 0.078,
    "epyc-zen5/mla/light/e2e": 0.078,
    "epyc-zen5/mla/busy/tpot": 0.075,
    "epyc-zen5/mla/busy/e2e": 0.076,
    "epyc-zen5/mla/kv-bound/tpot": 0.070,
    "epyc-zen5/mla/kv-bound/e2e": 0.068,
}


@cache
def compared(folder: Path) -> LiveComparison:
    return compare_folder(folder)


def cases(*rows: tuple[Path, str, str]) -> pytest.MarkDecorator:
    ids = ["-".join((folder.name, model, load)) for folder, model, load in rows]
    empty = pytest.param(None, "", "", marks=NOTHING)
    return pytest.mark.parametrize(
        ("folder", "model", "load"), rows or [empty], ids=ids or ["none"]
    )


def found(folder: Path, model: str, load: str) -> LoadComparison:
    loads = compared(folder).loads
    return next(one for one in loads if (one.model, one.load) == (model, load))


@cases(*CASES)
def test_every_step_is_decided_as_vllm_did(folder: Path, model: str, load: str) -> None:
    for decisions in found(folder, model, load).decisions:
        assert decisions.first_difference is None
        assert decisions.identical == decisions.steps


@cases(*CASES)
def test_with_the_measured_steps_every_request_is_on_time(
    folder: Path, model: str, load: str
) -> None:
    for replay in found(folder, model, load).replays:
        assert replay is not None
        assert replay.within == replay.requests


@cases(*CASES)
def test_means_agree_beyond_the_spread(folder: Path, model: str, load: str) -> None:
    one = found(folder, model, load)
    for latency in ("tpot", "e2e"):
        bound = REACHED.get(f"{folder.name}/{model}/{load}/{latency}", MEAN_AIM)
        assert one.latencies[latency]["mean"].beyond <= bound, latency


@cases(*{(folder, model): (folder, model, "") for folder, model, _ in CASES}.values())
def test_step_times_agree_in_the_median(folder: Path, model: str, load: str) -> None:
    bound = REACHED.get(f"{folder.name}/{model}", STEP_AIM)
    assert compared(folder).steps[model]["all"].median <= bound


@pytest.mark.parametrize("folder", FOLDERS or [pytest.param(None, marks=NOTHING)])
def test_all_that_was_recorded_is_compared(folder: Path) -> None:
    assert not compared(folder).failures
    assert {one.model for one in compared(folder).loads} == {m for f, m, _ in CASES if f == folder}
