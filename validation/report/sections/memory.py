"""Memory plans against vLLM's start-up."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

from servesim.validation.compare import Compared
from servesim.validation.report.markdown import percent, signed, table
from servesim.validation.startup import compare_startups

ORDER = 50
TITLE = "What fits: memory plans against vLLM's start-up"


def body(data: Path) -> str | None:
    """Every start-up whose model has a built-in config."""
    path = data / "memory" / "h100_vllm_0.19_startup.csv"
    if not path.is_file():
        return None
    starts = compare_startups(path)
    summary = [
        ["weights", *_errors(s.weight_bytes for s in starts)],
        ["KV tokens", *_errors(s.kv_cache_tokens for s in starts)],
        ["longest sequences at once", *_errors(s.max_concurrency for s in starts)],
    ]
    rows = [
        [
            s.model,
            str(s.tensor_parallel_size),
            signed(s.weight_bytes.error, 0.01),
            f"{s.kv_cache_tokens.measured:,.0f}",
            signed(s.kv_cache_tokens.error, 0.08),
        ]
        for s in sorted(starts, key=lambda s: (s.model, s.tensor_parallel_size, s.log))
    ]
    return (
        f"vLLM 0.19 on H100 80 GB, {len(starts)} starts, by one rule over the traced graph. Its "
        "reserves for libraries and collectives are constants taken from these starts. Aimed at: "
        "weights within 1 %, KV tokens within 3 % in the median and 8 % at worst.\n\n"
        + table(["absolute error", "median", "worst"], summary)
        + "\n\n"
        + table(["model", "TP", "weights", "KV tokens reported", "KV tokens"], rows)
    )


def _errors(compared: Iterable[Compared]) -> list[str]:
    errors = [abs(c.error) for c in compared]
    return [percent(statistics.median(errors)), percent(max(errors))]
