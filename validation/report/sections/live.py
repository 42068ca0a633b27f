"""Live runs of vLLM that this project recorded itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from servesim.validation.live.compare import LiveComparison, compare_folder
from servesim.validation.live.figures import figures as charts
from servesim.validation.report import live_tables

ORDER = 15
TITLE = "Live runs of vLLM, recorded by this project"

#: Recordings in the tree: a folder a machine.
OWN = Path(__file__).resolve().parents[2] / "own"

_INTRO = """\
Small models with dummy weights on the real engine, recorded step by step with `servesim validate
live` and held against their simulation with the device file measured on the same machine
(`servesim validate live --data {folder}`). Engine: vLLM {version}. Machine: {machine}. Every load
was run {repeats} times; the *spread* is the largest less the smallest of the measured runs, over
their mean, and an error is *beyond* it by what it exceeds it. Architectures that are **held out**
were named before any run, and nothing is fitted to theirs: the device file knows its kernels from
measurements of kernels, and what a step takes beside them ([host]: a time for each step, sequence
and operator, and a share of the operators' time) from steps of the others, by earlier recordings
of which that form was chosen: it predicted best each of them left out. Earlier recordings of those
held out, too, had been seen with their errors (steps 4 to 9 % short). What was wrong, kernels timed
in no company and decodes that all ended with a block, was then found on layers of running engines:
the others, and a variant of dense-gqa with as many KV heads as heads. Which experts tokens go to
is counted before the runs: random routers have favourites. Aimed at on those held out: step times
within 10 % in the median; means of TPOT and E2E within 6 % beyond the spread."""


def body(data: Path) -> str | None:
    """Every folder of recordings in the tree; those below ``data`` are others'."""
    return "\n\n".join(map(_folder, _comparisons())) or None


def figures() -> dict[str, str]:
    """The charts that the section shows, by file name."""
    return {
        name: text for comparison in _comparisons() for name, text in charts(comparison).items()
    }


@cache
def _comparisons() -> tuple[LiveComparison, ...]:
    return tuple(compare_folder(folder) for folder in live_tables.machine_folders(OWN))


def _folder(comparison: LiveComparison) -> str:
    caution = " Near saturation a step a tenth too long or short changes latencies by far more"
    parts = [
        *live_tables.machine_parts(comparison, "vLLM", "validation/own", _INTRO, caution),
        "Distributions and throughput over time:",
        *(f"![{model}](figures/{comparison.name}-{model}.svg)" for model in comparison.models),
    ]
    return "\n\n".join(parts)
