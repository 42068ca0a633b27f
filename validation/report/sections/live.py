"""Live runs of vLLM that this project recorded itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from servesim.validation.live.compare import (
    LiveComparison,
    LoadComparison,
    compare_folder,
    held_out,
)
from servesim.validation.live.figures import figures as charts
from servesim.validation.live.pace import NOTICEABLE
from servesim.validation.live.spread import LATENCIES, Repeated
from servesim.validation.report.markdown import percent, signed, table

ORDER = 15
TITLE = "Live runs of vLLM, recorded by this project"

#: Recordings in the tree: a folder a machine.
OWN = Path(__file__).resolve().parents[2] / "own"
#: What is aimed at, on architectures held out: median error of a step, and means beyond the spread.
STEP_AIM, MEAN_AIM = 0.10, 0.06
_AIMED = ("tpot", "e2e")
_TITLES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
_PERCENTILES = ("p50", "p90", "p95", "p99")

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
    folders = {path.parents[2]: None for path in OWN.glob("*/*/*/*.json.gz")}
    return tuple(compare_folder(folder) for folder in sorted(folders))


def _folder(comparison: LiveComparison) -> str:
    about = comparison.about
    intro = _INTRO.format(
        folder=f"validation/own/{comparison.name}",
        version=about.get("engine_version", "of unknown version"),
        machine=_machine(about.get("machine", "unknown")),
        repeats=max(len(load.results) for load in comparison.loads),
    ).replace("\n", " ")
    parts = [
        f"### {comparison.name}",
        intro,
        _decisions(comparison.loads),
        _steps(comparison),
        "Whole runs, all arrivals as recorded. Error of means, and in brackets the spread. Near "
        "saturation a step a tenth too long or short changes latencies by far more:",
        _means(comparison.loads),
        _details("Percentiles", _percentiles(comparison.loads)),
        *_failures(comparison),
        "Distributions and throughput over time:",
        *(f"![{model}](figures/{comparison.name}-{model}.svg)" for model in comparison.models),
    ]
    return "\n\n".join(parts)


def _machine(about: object) -> str:
    if isinstance(about, dict):
        return ", ".join(f"{key} {value}" for key, value in about.items() if value != "")
    return str(about)


def _decisions(loads: Sequence[LoadComparison]) -> str:
    rows = []
    for load in loads:
        same = sum(d.first_difference is None for d in load.decisions)
        replays = [replay for replay in load.replays if replay is not None]
        rows.append(
            [
                *_names(load),
                f"{sum(d.steps for d in load.decisions):,}",
                _of(same, len(load.decisions)),
                _of(sum(r.within for r in replays), sum(r.requests for r in replays)),
                f"{max((r.worst_steps for r in replays), default=0.0):.2f}",
            ]
        )
    differences = [
        f"- {load.model}, {load.load}: {d.first_difference}"
        for load in loads
        for d in load.decisions
        if d.first_difference is not None
    ]
    heads = ["model", "load", "steps", "runs decided alike", "requests on time", "worst"]
    decided = [d for load in loads for d in load.decisions]
    total = f"In all {len(decided)} runs, {sum(d.steps for d in decided):,} steps."
    return (
        "Given the recorded moments, does the scheduler decide every step as vLLM did (requests "
        "in order, computed and new tokens, preemptions, free blocks)? Given the recorded lengths "
        "of steps, does every request get its first and last token within one step of when it "
        "did (worst: in steps)?\n\n" + "\n\n".join([table(heads, rows, 2), total, *differences])
    )


def _of(count: int, total: int) -> str:
    return f"{count} of {total}" + ("" if count == total else " (missed)")


def _steps(comparison: LiveComparison) -> str:
    rows = []
    for model, errors in comparison.steps.items():
        for kind, one in errors.items():
            aim = STEP_AIM if held_out(model) and kind == "all" else None
            rows.append(
                [
                    f"{model}{_mark(model)}" if kind == next(iter(errors)) else "",
                    kind,
                    f"{one.steps:,}",
                    percent(one.median, aim),
                    signed(one.bias),
                    signed(one.model_bias),
                    percent(one.host_share),
                ]
            )
    heads = ["model", "steps of", "steps", "median error", "bias", "operators", "host"]
    slower = [
        f"{model} {percent(by)}" for model, by in comparison.slower.items() if by > NOTICEABLE
    ]
    remark = f"\n\nThe machine was slower than at its fastest before runs of: {', '.join(slower)}."
    return (
        "Each recorded step, predicted alone: the median of the absolute errors and the bias of "
        "the sum; *operators*: their sum against what the worker took; *host*: the measured share "
        "outside the worker.\n\n" + table(heads, rows, 2) + (remark if slower else "")
    )


def _means(loads: Iterable[LoadComparison]) -> str:
    rows = []
    for load in loads:
        cells = [_cell(load, name, load.latencies[name]["mean"]) for name in LATENCIES]
        rows.append([*_names(load), *cells, _cell(load, "", load.throughput)])
    return table(["model", "load", *_TITLES.values(), "tokens/s"], rows, 2)


def _percentiles(loads: Iterable[LoadComparison]) -> str:
    rows = [
        [*_names(load), _TITLES[name], *(_cell(load, "", statistics[p]) for p in _PERCENTILES)]
        for load in loads
        for name, statistics in load.latencies.items()
    ]
    return table(["model", "load", "", *_PERCENTILES], rows, 3)


def _details(title: str, text: str) -> str:
    """Text that is folded away until asked for."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _cell(load: LoadComparison, name: str, value: Repeated) -> str:
    missed = load.held_out and name in _AIMED and value.beyond > MEAN_AIM
    text = f"{signed(value.error)} ({100 * value.spread:.1f})"
    return text + (" (missed)" if missed else "")


def _names(load: LoadComparison) -> list[str]:
    return [f"{load.model}{_mark(load.model)}", load.load]


def _mark(model: str) -> str:
    return ", held out" if held_out(model) else ""


def _failures(comparison: LiveComparison) -> list[str]:
    rows = [f"- {model} was not simulated: {why}" for model, why in comparison.failures.items()]
    return ["\n".join(rows)] if rows else []
