"""Live runs of the continuous batching of transformers that this project recorded itself."""

from __future__ import annotations

from pathlib import Path

from servesim.validation.golden import replay
from servesim.validation.live.compare import LiveComparison, compare_folder
from servesim.validation.report import live_tables
from servesim.validation.report.markdown import table

ORDER = 16
TITLE = "Live runs of transformers, recorded by this project"

#: Recordings in the tree: a folder a machine.
OWN = Path(__file__).resolve().parents[2] / "own" / "transformers"

_INTRO = """\
The continuous batching of Hugging Face transformers {version}, recorded and compared in the same
way (`servesim validate live --data {folder}`), with the kernels that torch runs, measured on the
same machine as these models have them (`servesim profile --unfused`). Machine: {machine}. What the
host takes of a step ([host]) comes from the steps of the model that is not held out."""
_RANDOM = (
    "Random cases of its schedulers, recorded with `validation/live/transformers_cases.py` and "
    "replayed step by step:"
)
_RELEASES = {"scheduler": "5.23", "scheduler-5.17": "5.17"}


def body(data: Path) -> str | None:
    """Every folder of recordings in the tree; those below ``data`` are others'."""
    live = [_folder(compare_folder(folder)) for folder in live_tables.machine_folders(OWN)]
    return "\n\n".join([_cases(), *live]) if live else None


def _cases() -> str:
    rows = []
    for file in sorted(OWN.glob("*.json.gz")):
        release = _RELEASES.get(file.name.removesuffix(".json.gz"), file.name)
        result = replay(file)
        same = "identical" if result.identical else f"differs: {result.first_difference}"
        rows.append([release, f"{result.steps:,}", same])
    return f"{_RANDOM}\n\n{table(['transformers', 'steps', ''], rows)}"


def _folder(comparison: LiveComparison) -> str:
    own = "validation/own/transformers"
    return "\n\n".join(live_tables.machine_parts(comparison, "transformers", own, _INTRO))
