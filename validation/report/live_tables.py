"""Tables of live runs held against their simulation, of whichever engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from servesim.validation.live.compare import LiveComparison, LoadComparison, held_out
from servesim.validation.live.pace import NOTICEABLE
from servesim.validation.live.spread import LATENCIES, Repeated
from servesim.validation.report.markdown import percent, signed, table

#: What is aimed at, on architectures held out: median error of a step, and means beyond the spread.
STEP_AIM, MEAN_AIM = 0.10, 0.06
_AIMED = ("tpot", "e2e")
_TITLES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
_PERCENTILES = ("p50", "p90", "p95", "p99")


def machine_folders(own: Path) -> list[Path]:
    """Folders of recordings in ``own``, one a machine: ``machine/model/load/run.json.gz``."""
    return sorted({path.parents[2] for path in own.glob("*/*/*/*.json.gz")})


def machine_parts(
    comparison: LiveComparison, engine: str, own: str, intro: str, caution: str = ""
) -> list[str]:
    """What the report says of one of ``machine_folders``.

    Args:
        own: where the folder lies in the tree.
        intro: text with fields ``folder``, ``version`` and ``machine``, and maybe ``repeats``.
        caution: what to say of errors of whole runs.
    """
    about, loads = comparison.about, comparison.loads
    filled = intro.format(
        folder=f"{own}/{comparison.name}",
        version=about.get("engine_version", "of unknown version"),
        machine=_machine(about.get("machine", "unknown")),
        repeats=max(len(load.results) for load in loads),
    )
    errors = "Error of means, and in brackets the spread" + (f".{caution}" if caution else "")
    return [
        f"### {comparison.name}",
        filled.replace("\n", " "),
        decisions(loads, engine),
        steps(comparison),
        f"Whole runs, all arrivals as recorded. {errors}:",
        means(loads),
        details("Percentiles", percentiles(loads)),
        *failures(comparison),
    ]


def _machine(about: object) -> str:
    """What was measured on, in words."""
    if isinstance(about, dict):
        return ", ".join(f"{key} {value}" for key, value in about.items() if value != "")
    return str(about)


def decisions(loads: Sequence[LoadComparison], engine: str) -> str:
    """Whether the scheduler decides every step as ``engine`` did, and every request is on time."""
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
    asked = (
        "Given the recorded moments, does the scheduler decide every step as "
        f"{engine} did (requests in order, computed and new tokens, preemptions, free blocks)? "
        "Given the recorded lengths of steps, does every request get its first and last token "
        "within one step of when it did (worst: in steps)?"
    )
    return "\n\n".join([asked, table(heads, rows, 2), total, *differences])


def _of(count: int, total: int) -> str:
    return f"{count} of {total}" + ("" if count == total else " (missed)")


def steps(comparison: LiveComparison) -> str:
    """Errors of steps, each predicted alone, by architecture and kind."""
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


def means(loads: Iterable[LoadComparison]) -> str:
    """Errors of whole runs, in means."""
    rows = []
    for load in loads:
        cells = [_cell(load, name, load.latencies[name]["mean"]) for name in LATENCIES]
        rows.append([*_names(load), *cells, _cell(load, "", load.throughput)])
    return table(["model", "load", *_TITLES.values(), "tokens/s"], rows, 2)


def percentiles(loads: Iterable[LoadComparison]) -> str:
    """Errors of whole runs, in percentiles."""
    rows = [
        [*_names(load), _TITLES[name], *(_cell(load, "", statistics[p]) for p in _PERCENTILES)]
        for load in loads
        for name, statistics in load.latencies.items()
    ]
    return table(["model", "load", "", *_PERCENTILES], rows, 3)


def details(title: str, text: str) -> str:
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


def failures(comparison: LiveComparison) -> list[str]:
    """What could not be simulated, and why."""
    rows = [f"- {model} was not simulated: {why}" for model, why in comparison.failures.items()]
    return ["\n".join(rows)] if rows else []
