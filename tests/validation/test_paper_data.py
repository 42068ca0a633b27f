"""Where the paper's measurements are found, and what is said when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from servesim.cli.main import main
from servesim.errors import InputError, UnknownNameError
from servesim.validation.paper.figures import Metric, PaperData, compare_figure, figure_numbers


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "paper"
    (root / "workloads").mkdir(parents=True)
    (root / "figure_6_power_a6000").mkdir()
    (tmp_path / "profiles-v0" / "A6000").mkdir(parents=True)
    return root


def test_data_is_found_from_above_and_below(data: Path) -> None:
    for folder in (data, data.parent, data / "figure_6_power_a6000"):
        assert PaperData.at(folder).root == data


def test_profiles_lie_beside_the_data_unless_given(data: Path, tmp_path: Path) -> None:
    assert PaperData.at(data).profile_for("A6000") == tmp_path / "profiles-v0" / "A6000"
    assert PaperData.at(data).profile_for("H100") is None
    assert PaperData.at(data, Path("mine")).profile_for("A6000") == Path("mine")


def test_tables_are_tab_separated(data: Path) -> None:
    (data / "t.tsv").write_text("time_s\tpower_w\n0\t387\n1\t571\n")
    rows = PaperData.at(data).table("t.tsv")
    assert [row["power_w"] for row in rows] == ["387", "571"]


def test_what_is_missing_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no measurements"):
        PaperData.at(data.parent / "profiles-v0" / "A6000")
    with pytest.raises(InputError, match="no such file"):
        PaperData.at(data).settings("figure_6_power_a6000/power_config_tp1.json")
    with pytest.raises(UnknownNameError, match="figure"):
        compare_figure("66", PaperData.at(data))
    assert main(["validate", "paper", "6", "--data", str(data)]) == 2
    assert "no such file" in capsys.readouterr().err


def test_figures_are_found_by_number() -> None:
    assert "6" in figure_numbers()


def test_an_error_is_relative_to_what_was_measured() -> None:
    assert Metric.of(200.0, 190.0).error == pytest.approx(-0.05)
