"""The scheduler's decisions against vLLM's own."""

from __future__ import annotations

from pathlib import Path

from servesim.validation.golden import replay
from servesim.validation.report.markdown import table

ORDER = 10
TITLE = "The scheduler decides as vLLM's does"


def body(data: Path) -> str | None:
    """Every recording below ``data``."""
    files = sorted((data / "vllm-golden").glob("*.json"))
    if not files:
        return None
    results = [replay(file) for file in files]
    rows = [
        [r.file, f"{r.steps:,}", "identical" if r.identical else f"differs: {r.first_difference}"]
        for r in results
    ]
    return (
        "Recordings of vLLM 0.32's scheduler, replayed step by step: requests in order, tokens, "
        "computed tokens, preemptions, free blocks, finishes (`servesim validate golden`).\n\n"
        + table(["recording", "steps", ""], [[r[0], r[1], r[2]] for r in rows])
    )
