"""Files of load clients, and what is read from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from servesim.validation.measured import MeasuredRun


def write(path: Path, *documents: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    return path


def times(run: MeasuredRun) -> list[tuple[float, float, float, int, int]]:
    return [
        (r.arrival_s, r.first_token_s, r.finished_s, r.prompt_tokens, r.output_tokens)
        for r in run.requests
    ]
