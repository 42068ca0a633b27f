"""Measured runs, with the model's own layer latencies."""

from __future__ import annotations

from pathlib import Path

from servesim.validation.readers import read_run
from servesim.validation.report.markdown import run_summary, run_table
from servesim.validation.run import RunOptions, simulate_run

ORDER = 20
TITLE = "Measured runs, with measured layers"

_MEANS = {"ttft": 0.03, "tpot": 0.015, "e2e": 0.015}


def body(data: Path) -> str | None:
    """Both runs on RTX PRO 6000."""
    runs = sorted((data / "serving" / "vllm-0.19").glob("*/run.json"))
    profile = data / "profiles" / "RTXPRO6000"
    if not runs or not profile.is_dir():
        return None
    parts = [
        "vLLM 0.19 on RTX PRO 6000, replayed with layer latencies measured on the same device "
        "(`servesim validate run RUN --profile DIR`). Beside the kernels there are the gaps "
        "between them, the all-reduce over PCIe through host memory with NCCL's own constants, "
        "and the device's power limit: all three were added after residuals of these runs had "
        "been seen, with constants from elsewhere; that the two GPUs had no peer access is "
        "inferred, the run does not say. Aimed at: means of TPOT and E2E within 1.5 %, of TTFT "
        "within 3 %, percentiles within 5 %, E2E of a request within 2.5 %."
    ]
    for run in runs:
        result = simulate_run(read_run(run.parent), RunOptions(profile=profile))
        parts.append(f"### {result.run.name}\n\n{run_table(result, _MEANS, 0.05)}")
        parts.append(run_summary(result, 0.025))
    return "\n\n".join(parts)
