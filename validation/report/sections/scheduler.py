"""The scheduler's decisions against vLLM's own."""

from __future__ import annotations

from pathlib import Path

from servesim.validation.golden import replay
from servesim.validation.report.markdown import table

ORDER = 10
TITLE = "The scheduler decides as vLLM's does"

OWN = Path(__file__).resolve().parents[2] / "own" / "scheduler"

_GIVEN = (
    "Recordings of vLLM 0.32's scheduler, replayed step by step: requests in order, tokens, "
    "computed tokens, preemptions, free blocks, finishes (`servesim validate golden`).\n\n"
)
_RANDOM = (
    "Random cases, recorded with `validation/live/scheduler_cases.py`: prefix caching on and off "
    "and its retention, synchronous and asynchronous scheduling, both policies, thresholds of long "
    "prefills, caches that force preemption, steps shorter than a block. Further kinds: stop "
    "tokens before the last token asked for, also with a step under way; requests aborted while "
    "they wait, run, are preempted or in a step; and drafts, right or wrong, of an n-gram look-up, "
    "of heads on hidden states, of a draft model.\n\n"
)
_MODELS = {
    "aborts": "all of the seven others, and aborted requests",
    "draft-model": "full attention and windows, and a draft model",
    "eagle": "full attention, and EAGLE or MTP heads",
    "ngram": "full attention and windows, and n-gram drafts",
    "stops": "all of the seven others, and stop tokens",
    "adapters": "full attention, and LoRA adapters",
    "chunked": "full attention and chunks",
    "full": "full attention",
    "hybrid": "full attention and recurrent states",
    "unequal": "full attention and a window with blocks twice as long",
    "window": "full attention and a window",
    "windows-only": "a window",
}


def body(data: Path) -> str | None:
    """The recordings below ``data``, and our own."""
    given = [(file.name, file) for file in sorted((data / "vllm-golden").glob("*.json"))]
    own = [(_MODELS.get(file.name.partition(".")[0], file.name), file) for file in _own()]
    parts = []
    if given:
        parts.append(_GIVEN + table(["recording", "steps", ""], map(_row, given)))
    if own:
        rows = [_row(one) for one in own]
        steps = sum(int(row[1].replace(",", "")) for row in rows)
        parts.append(_RANDOM + table(["layers", "steps", ""], rows))
        parts.append(f"In all {steps:,} steps.")
    return "\n\n".join(parts) or None


def _own() -> list[Path]:
    return sorted(OWN.glob("*.json.gz"))


def _row(named: tuple[str, Path]) -> list[str]:
    name, result = named[0], replay(named[1])
    differs = f"differs: {result.first_difference}"
    return [name, f"{result.steps:,}", "identical" if result.identical else differs]
