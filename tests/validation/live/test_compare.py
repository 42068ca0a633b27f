"""Recordings of the simulator itself: nothing differs but what was injected."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from live_recordings import recording, served, write_device, write_recordings

from servesim.cli.main import main
from servesim.cli.render_live import live_remarks, live_tables
from servesim.errors import InputError
from servesim.hardware.host import HostTime
from servesim.hardware.load import load_device
from servesim.validation.live.compare import LiveComparison, compare_folder
from servesim.validation.live.figures import figures
from servesim.validation.live.host import (
    HostSample,
    fit_device_host,
    fit_host,
    host_samples,
    with_host,
)
from servesim.validation.live.recorded import from_json
from servesim.validation.live.spread import Repeated
from servesim.validation.report import live_tables as report_tables
from servesim.validation.report.sections import live as section


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "virtual-machine"
    write_recordings(folder, repeats=2)
    return folder


@pytest.fixture(scope="module")
def comparison(folder: Path) -> LiveComparison:
    return compare_folder(folder)


def test_our_own_recordings_are_predicted_but_for_what_lies_between_steps(
    comparison: LiveComparison,
) -> None:
    (load,) = comparison.loads
    assert (load.model, load.load, load.held_out, len(load.results)) == (
        "dense-gqa",
        "busy",
        False,
        2,
    )
    assert not comparison.failures
    assert [d.first_difference for d in load.decisions] == [None, None]
    assert all(r is not None and r.within == r.requests for r in load.replays)
    assert set(load.steps) == {"decode", "prefill", "mixed", "all"}
    assert load.steps["all"].steps == sum(d.steps for d in load.decisions)
    for errors in load.steps.values():
        assert errors.median < 1e-3
        assert abs(errors.bias) < 2e-3
        assert abs(errors.model_bias) < 1e-9
    # 2 ms a step and 0.1 ms a sequence of host, beside operators of about a millisecond.
    assert 0.6 < load.steps["all"].host_share < 0.8
    for latency in load.latencies.values():
        assert abs(latency["mean"].error) < 2e-3
        assert latency["mean"].spread == 0
    assert abs(load.throughput.error) < 1e-3


def _changed(folder: Path, to: Path, change: Callable[[dict[str, Any], int], None]) -> Path:
    """A copy of the recordings; ``change`` is given each with its number."""
    shutil.copytree(folder, to)
    for path in sorted(to.glob("*/*/*.json.gz")):
        run = json.loads(gzip.decompress(path.read_bytes()))
        change(run, run["repeat"])
        path.write_bytes(gzip.compress(json.dumps(run).encode(), mtime=0))
    return to


def _slower(run: dict[str, Any], repeat: int) -> None:
    """All times of a run stretched: by a quarter, and by half in the second."""
    factor = 1.0 + 0.25 * repeat
    for table in (run["requests"], run["steps"]):
        for name in table:
            if name.endswith("_s"):
                table[name] = [value * factor for value in table[name]]


def test_a_slower_machine_shows_in_every_error(folder: Path, tmp_path: Path) -> None:
    (load,) = compare_folder(_changed(folder, tmp_path / "slow", _slower)).loads
    assert [d.first_difference for d in load.decisions] == [None, None]
    mean = 0.5 / 1.25 + 0.5 / 1.5  # of predicted over measured, half of the steps each
    assert load.steps["all"].median == pytest.approx(1 - mean, abs=0.08)
    assert load.steps["all"].bias == pytest.approx(1 / 1.375 - 1, abs=2e-3)
    assert load.steps["all"].model_bias == pytest.approx(1 / 1.375 - 1, abs=1e-6)
    tpot = load.latencies["tpot"]["mean"]
    assert tpot.spread == pytest.approx(0.25 / 1.375, abs=1e-6)
    assert -0.35 < tpot.error < -0.25  # -0.27, and fewer requests at once
    assert tpot.beyond == pytest.approx(abs(tpot.error) - tpot.spread)


def test_spread_and_error_by_hand() -> None:
    value = Repeated((0.9, 1.0, 1.1), (1.3, 1.3, 1.3))
    assert value.error == pytest.approx(0.3)
    assert value.spread == pytest.approx(0.2)
    assert value.beyond == pytest.approx(0.1)
    assert Repeated((0.9, 1.1), (1.1, 1.1)).beyond == 0


def test_a_folder_without_recordings_or_device_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recorded runs"):
        compare_folder(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "device.toml").unlink()
    with pytest.raises(InputError, match=r"device\.toml"):
        compare_folder(tmp_path / "copy")


def test_a_model_that_does_not_fit_is_a_failure_that_is_told(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "small")
    device = tmp_path / "small" / "device.toml"
    device.write_text(device.read_text().replace("549.76e9", "1e6"))
    comparison = compare_folder(tmp_path / "small")
    assert not comparison.loads
    assert "does not fit" in comparison.failures["dense-gqa"]
    assert any("does not fit" in remark for remark in live_remarks(comparison))


def test_the_host_time_that_was_put_in_is_fitted(folder: Path) -> None:
    samples = host_samples(folder, ["dense-gqa"])
    assert {s.architecture for s in samples} == {"dense-gqa"}
    host = fit_host(samples)
    assert host.step_s == pytest.approx(2e-3, rel=1e-2)
    assert host.per_sequence_s == pytest.approx(1e-4, rel=2e-2)
    assert host.per_operator_s == 0  # of one model it cannot be told from the step's
    assert host.operator_share < 5e-3  # nor from the few microseconds that operators differ
    assert host_samples(folder, ["mla"]) == []
    with pytest.raises(InputError, match="no recorded steps"):
        fit_host([])


def test_the_fitted_host_time_goes_into_the_device_file(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "device.toml"
    before = load_device(str(file))
    file.write_text(with_host(file.read_text(), HostTime(1.0)))
    assert load_device(str(file)).host == HostTime(1.0)
    fitted = fit_device_host(tmp_path / "copy")
    assert fitted is not None
    text = file.read_text()
    assert with_host(text, fitted) == text
    after = load_device(str(file))
    assert after.host is not None
    assert after.host.step_s == pytest.approx(2e-3, rel=1e-2)
    assert dataclasses.replace(after, host=before.host) == before
    shutil.rmtree(tmp_path / "copy" / "dense-gqa")
    assert fit_device_host(tmp_path / "copy") is None


def test_time_for_each_operator_is_told_apart_over_several_models() -> None:
    def sample(sequences: int, operators: int, operators_s: float, noise: float) -> HostSample:
        seconds = 1e-3 + 2e-5 * sequences + 4e-6 * operators + 0.1 * operators_s
        return HostSample("", sequences, operators, 100, operators_s, seconds * (1 + noise))

    rng = np.random.default_rng(0)
    samples = [
        sample(n, k, s, 0.01 * rng.normal())
        for n in range(1, 33)
        for k in (100, 250, 400)
        for s in (5e-3, 2e-2)
    ]
    samples += [HostSample("", 40, 400, 5, 2e-2, 1.0)]  # a machine that was busy
    host = fit_host(samples)
    assert host.step_s == pytest.approx(1e-3, rel=0.05)
    assert host.per_sequence_s == pytest.approx(2e-5, rel=0.05)
    assert host.per_operator_s == pytest.approx(4e-6, rel=0.05)
    assert host.operator_share == pytest.approx(0.1, rel=0.05)
    falling = [HostSample("", n, 1, 10, 0.0, 1e-3 - 1e-5 * n) for n in range(1, 9)]
    assert fit_host(falling).per_sequence_s == 0  # nothing takes negative time


def test_tables_and_charts_show_all_there_is(comparison: LiveComparison) -> None:
    titles, tables = zip(*live_tables(comparison), strict=True)
    assert [table.row_count for table in tables] == [4, 1, 1]
    assert len(set(titles)) == 3
    assert not list(live_remarks(comparison))
    files = figures(comparison)
    assert list(files) == ["virtual-machine-dense-gqa.svg"]
    assert files == figures(comparison)
    svg = ET.fromstring(files["virtual-machine-dense-gqa.svg"])
    lines = [p.get("data-name") for p in svg.iter("{http://www.w3.org/2000/svg}path")]
    assert lines.count("measured") == lines.count("simulated") == 3 * 2  # charts, repeats


def test_the_report_shows_recordings_in_the_tree_and_marks_misses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(own: Path) -> str | None:
        monkeypatch.setattr(section, "OWN", own)
        section._comparisons.cache_clear()
        return section.body(tmp_path)

    assert shown(tmp_path) is None
    assert section.figures() == {}
    exact = shown(folder.parent)
    assert exact is not None
    assert "missed" not in exact
    assert "![dense-gqa](figures/virtual-machine-dense-gqa.svg)" in exact
    slow = tmp_path / "slow"
    _changed(folder, slow / "virtual-machine", _slower)
    monkeypatch.setattr(report_tables, "held_out", lambda model: True)
    missed = shown(slow)
    assert missed is not None
    assert "(missed)" in missed
    section._comparisons.cache_clear()


def test_the_report_is_written_with_its_charts_beside_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(section, "OWN", folder.parent)
    section._comparisons.cache_clear()
    (tmp_path / "nothing").mkdir()
    out = tmp_path / "report.md"
    assert main(["validate", "report", "--data", str(tmp_path / "nothing"), "--out", str(out)]) == 0
    shown = [line for line in out.read_text().splitlines() if line.startswith("![")]
    assert shown == ["![dense-gqa](figures/virtual-machine-dense-gqa.svg)"]
    assert (tmp_path / "figures" / "virtual-machine-dense-gqa.svg").is_file()
    section._comparisons.cache_clear()


def test_recordings_are_compared_by_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "live", "--data", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2" in printed
    assert "dense-gqa" in printed


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("requests", "arrival_s", "x", "could not convert string to float: 'x'"),
        ("requests", "finished_s", float("nan"), "a time is not finite"),
        ("requests", "output_tokens", 1e300, "request 0 has "),
        ("requests", "prompt_tokens", None, "NoneType"),
        ("steps", "start_s", float("inf"), "a time is not finite"),
        ("steps", "model_s", "x", "could not convert string to float: 'x'"),
    ],
)
def test_recordings_of_other_types_are_refused(
    tmp_path: Path, table: str, column: str, value: Any, message: str
) -> None:
    recorded = recording(served(write_device(tmp_path)))
    columns = recorded[table]
    changed = {**columns, column: [value, *columns[column][1:]]}
    with pytest.raises(InputError, match=f"broken: .*{message}"):
        from_json({**recorded, table: changed}, "broken")
