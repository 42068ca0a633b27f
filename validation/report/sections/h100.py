"""Measured H100 runs, without any profile of the model."""

from __future__ import annotations

from pathlib import Path

from servesim.validation.readers import read_run
from servesim.validation.report.markdown import run_summary, signed, table
from servesim.validation.run import RunResult, simulate_run

ORDER = 40
TITLE = "Measured runs on H100, without a profile"

_AIMS = {"ttft": 0.18, "tpot": 0.06, "e2e": 0.06}


def body(data: Path) -> str | None:
    """Every run of the H100 set."""
    folder = data / "serving" / "h100-vllm-0.15"
    files = [f for f in sorted(folder.glob("*.json.gz")) if "_ground_truth" not in f.name]
    if not files:
        return None
    results = [simulate_run(read_run(file)) for file in files]
    rows = [[r.run.name, *_means(r)] for r in results]
    return (
        "vLLM 0.15 on H100 SXM under a load client, times stamped by the client: vLLM's front "
        "end adds what this project measured of it on another machine (`runtime/frontend.py`). "
        "Kernel costs are those calibrated for every model; what served GEMMs take beyond "
        "benchmarked ones was measured on RTX PRO 6000 and is carried over. That choice, the event "
        "loop that hands out the answers of a step one after another (`token_s`), and that long "
        "decodes count more in the fit than there are of them, came after these runs had been "
        "seen; their values come from other measurements. Errors of means; aimed at: TTFT 18 %, "
        "TPOT and E2E 6 %.\n\n"
        + table(["run", "TTFT", "TPOT", "E2E"], rows)
        + "\n\n"
        + "\n".join(f"- {r.run.name}: {run_summary(r)}" for r in results)
    )


def _means(result: RunResult) -> list[str]:
    metrics = result.comparison.metrics
    return [signed(metrics[name]["mean"].error, aim) for name, aim in _AIMS.items()]
