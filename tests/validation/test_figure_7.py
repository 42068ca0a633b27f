"""Figure 7 of the paper, where its data is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from servesim.validation.paper.figures import PaperData, compare_figure

DATA = Path(__file__).parents[3] / "shared" / "paper"


@pytest.mark.skipif(not DATA.is_dir(), reason="the paper's data is not here")
def test_memory_over_time_and_hit_ratios() -> None:
    cases = compare_figure("7", PaperData.at(DATA))
    assert set(cases) == {"SD+PC", "MD+PC+PS inst0", "MD+PC+PS inst1", "MD+PC+PS pool"}
    for name, metrics in cases.items():
        assert abs(metrics["final_hit_ratio"].error) < 0.003, name
        assert abs(metrics["mean_memory_bytes"].error) < 0.02, name
        if "pool" not in name:
            assert metrics["memory_curve_bytes"].error < 0.02, name
    assert cases["MD+PC+PS pool"]["final_memory_bytes"].error == 0
