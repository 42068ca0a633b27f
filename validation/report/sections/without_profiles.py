"""Measured runs, with cost models that have never seen the model."""

from __future__ import annotations

from pathlib import Path

from servesim.validation.held_out import DEVICE_FILES
from servesim.validation.readers import read_run
from servesim.validation.report.markdown import run_summary, run_table
from servesim.validation.run import RunOptions, simulate_run

ORDER = 30
TITLE = "Measured runs, without any measurement of the model"

_AIMS = {"ttft": 0.10, "tpot": 0.04, "e2e": 0.04}


def body(data: Path) -> str | None:
    """Both runs on RTX PRO 6000."""
    runs = sorted((data / "serving" / "vllm-0.19").glob("*/run.json"))
    if not runs:
        return None
    parts = [
        "The same runs of vLLM 0.19 on RTX PRO 6000. Costs are of the calibrated forms alone, "
        "fitted to kernel benchmarks of the device and to the layers of the other model: device "
        "files in `validation/held_out` (`servesim validate run RUN --hardware FILE`). Aimed at: "
        "means of TTFT within 10 %, of TPOT and E2E within 4 %."
    ]
    for path in runs:
        run = read_run(path.parent)
        result = simulate_run(run, RunOptions(hardware=str(DEVICE_FILES[run.model])))
        parts.append(f"### {run.name}\n\n{run_table(result, _AIMS, None)}")
        parts.append(run_summary(result))
    return "\n\n".join(parts)
