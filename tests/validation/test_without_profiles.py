"""Cost models that have never seen the model: what they reach on measured runs and kernels."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from servesim.hardware.load import load_device
from servesim.validation.held_out import DEVICE_FILES
from servesim.validation.readers import read_run
from servesim.validation.report.sections import kernels, lent
from servesim.validation.run import RunOptions, simulate_run

RUNS = Path(__file__).parents[3] / "shared" / "serving" / "vllm-0.19"
#: What is reached: largest error of the means of TTFT, TPOT and E2E.
REACHED = {
    "rtxpro6000-llama-3.1-8b": (0.04, 0.02, 0.02),
    "rtxpro6000-qwen3-32b-tp2": (0.04, 0.04, 0.04),
}


@pytest.mark.parametrize("name", REACHED)
def test_runs_of_models_never_seen_stay_as_close_as_they_are(name: str) -> None:
    if not (RUNS / name).is_dir():
        pytest.skip("no shared measurements")
    run = read_run(RUNS / name)
    result = simulate_run(run, RunOptions(hardware=str(DEVICE_FILES[run.model])))
    errors = [abs(result.comparison.metrics[m]["mean"].error) for m in ("ttft", "tpot", "e2e")]
    assert all(e <= most for e, most in zip(errors, REACHED[name], strict=True)), errors


@pytest.mark.parametrize("model", DEVICE_FILES)
def test_held_out_devices_differ_from_the_device_in_their_calibration_alone(model: str) -> None:
    path = DEVICE_FILES[model]
    held_out, device = load_device(str(path)), load_device("rtx_pro_6000")
    for part in ("peak_flops", "memory", "cache", "cores", "scale_up", "host_link", "tdp_watts"):
        assert getattr(held_out, part) == getattr(device, part)
    assert f"--exclude-model {model}" in path.read_text(encoding="utf-8")
    for family, forms in tomllib.loads(path.read_text(encoding="utf-8"))["calibration"].items():
        if family in ("gemm", "decode", "prefill", "memory"):
            assert all(form["held_out"]["kernels"] > 50 for form in forms.values())


def test_the_table_of_kernels_marks_what_misses() -> None:
    text = kernels.body(Path())
    rows = [line for line in text.splitlines() if line.startswith("| h100_sxm | gemm.bf16 |")]
    assert len(rows) == 1
    assert "missed" in text
    median, p90, bias = (cell.strip() for cell in rows[0].split("|")[4:7])
    assert ("missed" in median) == (float(median.split()[0]) > 5)
    assert ("missed" in p90) == (float(p90.split()[0]) > 15)
    assert ("missed" in bias) == (abs(float(bias.split()[0])) > 1)


def test_the_table_of_kernels_starts_with_whole_families() -> None:
    text = kernels.body(Path())
    families, forms = text.index("| h100_sxm | products |"), text.index("<details>")
    assert families < forms < text.index("| h100_sxm | gemm.bf16 |")
    size = re.search(r"h100_sxm (\d+) \((\d+)\)", text)
    assert size and 0 < int(size[2]) < int(size[1]) < 1000


def test_what_a_device_without_tables_is_in_for_is_shown_by_family() -> None:
    text = lent.body(Path())
    cells = next(line for line in text.splitlines() if line.startswith("| products |"))
    one_chip, _, others, _, least, largest = (
        float(cell.split()[0]) for cell in cells.strip("| ").split("|")[1:]
    )
    assert one_chip < others
    assert least <= others <= largest
    assert "| h200_sxm | h100_sxm | products |" in text
