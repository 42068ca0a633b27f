"""The measured truth of power and energy, within what is asked of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servesim.cli.main import main
from servesim.hardware.load import load_device
from servesim.hardware.power.accelerator import AcceleratorPower, accelerator_power
from servesim.validation.energy.configurations import Measured
from servesim.validation.energy.fit import EngineTime, fit_power, fit_time, predict
from servesim.validation.energy.steady import Steady

SHARED = Path(__file__).parents[2].parent / "shared"


def test_figure_6(capsys: pytest.CaptureFixture[str]) -> None:
    data = SHARED / "paper"
    if not data.is_dir():
        pytest.skip("no measurements of the paper")
    assert main(["validate", "paper", "6", "--data", str(data), "--json"]) == 0
    cases = json.loads(capsys.readouterr().out)["figures"]["6"]
    assert set(cases) == {"TP1", "TP2"}
    for metrics in cases.values():
        assert abs(metrics["mean_power_w"]["error"]) < 0.02
        assert abs(metrics["energy_j"]["error"]) < 0.02
        assert metrics["power_curve_w"]["error"] < 0.08


@pytest.mark.slow
def test_energy_of_models_not_fitted_on(capsys: pytest.CaptureFixture[str]) -> None:
    data = SHARED / "energy" / "h100_vllm.csv"
    if not data.is_file():
        pytest.skip("no measured energy")
    assert main(["validate", "energy", "--data", str(data), "--json"]) == 0
    got = json.loads(capsys.readouterr().out)["energy"]["H100"]
    assert got["configurations"] == 405
    assert got["skipped"] == {}
    assert got["held_out"]["joules_per_token"] < 0.15
    for split in got["splits"]:
        assert split["joules_per_token"] < 0.15
    assert got["shipped"]["joules_per_token"] < 0.15


TIME = EngineTime(1e-3, 500.0)
POWER = AcceleratorPower(70.0, 140.0, 18.0, 300.0, 200.0, 400.0, 1000.0)


def _steady(batch: int, kernels_s: float, compute_s: float) -> Steady:
    """A configuration that measures exactly what the coefficients above say."""
    logits = batch * 100_000.0
    sampling = 500.0 * logits / 3e12
    step = kernels_s + sampling + 1e-3
    watts = 300 + 200 * (0.5 * kernels_s + sampling) / step + 400 * compute_s / step
    measured = Measured(
        "m",
        "gpqa",
        "H100",
        2,
        1,
        batch,
        batch,
        500.0,
        2 * watts,
        batch / step,
        2 * watts * step / batch,
    )
    return Steady(measured, batch, kernels_s, 0.5 * kernels_s, compute_s, logits, 3e12)


def test_the_fit_finds_coefficients_that_explain_everything() -> None:
    steps = [
        _steady(batch, kernels, share * kernels)
        for batch in (8, 64, 256)
        for kernels in (5e-3, 2e-2)
        for share in (0.0, 0.1, 0.3)
    ]
    time = fit_time(steps)
    assert time.step_s == pytest.approx(TIME.step_s, rel=1e-3)
    assert time.logit_bytes == pytest.approx(TIME.logit_bytes, rel=1e-3)
    power = fit_power(steps, time, POWER)
    assert power.active_watts == pytest.approx(300, rel=1e-3)
    assert power.memory_watts == pytest.approx(200, rel=1e-3)
    assert power.compute_watts == pytest.approx(400, rel=1e-3)
    for one, found in zip(steps, predict(steps, time, power), strict=True):
        assert found.joules_per_token == pytest.approx(one.measured.joules_per_token, rel=1e-3)
        assert found.watts_at_measured == pytest.approx(one.measured.watts, rel=1e-3)


def test_a_data_sheet_borrows_by_its_tdp() -> None:
    h100, b200 = (accelerator_power(load_device(name)) for name in ("h100_sxm", "b200_sxm"))
    assert b200.active_watts / h100.active_watts == pytest.approx(1000 / 700)
