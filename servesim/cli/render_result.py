"""The results of a run, on a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from servesim.cli.render import (
    LATENCIES,
    LATENCY_COLUMNS,
    columns,
    count,
    grid,
    heading,
    in_unit,
    indented,
    number,
    percent,
)
from servesim.cli.render_tiers import tiers_table
from servesim.hardware.cost import Source
from servesim.runtime.expert_offload_step import ExpertOffloadStepModel
from servesim.runtime.metrics import Report, Slo, goodput, kv_use, tokens_per_decode
from servesim.runtime.records import State
from servesim.scenario.cost import CostReport
from servesim.scenario.run import Result
from servesim.scenario.summary import first_rejection, throughput
from servesim.scenario.typical import TypicalStep, typical_steps
from servesim.units import binary

#: Above this share of extrapolated time a result comes with a warning.
EXTRAPOLATED_LIMIT = 0.2
#: Operators of a step beyond so many, or below this share, are shown together.
_MOST_ROWS, _LEAST_SHARE = 9, 0.02
_BAR_WIDTH = 24


def print_result(console: Console, result: Result, files: Sequence[Path]) -> None:
    """Latencies, throughput and the rest, warnings, and where the files are."""
    heading(console, "Latency")
    indented(console, latency_table(result))
    heading(console, "Result")
    indented(console, grid(result_facts(result)))
    for step in typical_steps(result):
        heading(console, "Decode step", step_title(step))
        indented(console, _step_table(step))
    if len(result.records.instances) > 1:
        heading(console, "Instances")
        indented(console, _instances(result))
    if result.records.tiers:
        heading(console, "KV tiers")
        indented(console, tiers_table(result))
    for line in warnings(result):
        console.print(Text(f"\n{line}", style="yellow"))
    if files:
        heading(console, "Files")
        for folder, names in _places(files):
            indented(console, Text.assemble((folder, "dim"), "  ", names, overflow="fold"))


def latency_table(result: Result) -> Table:
    """TTFT, TPOT, ITL and E2E by mean and percentile."""
    table = columns("", "", *LATENCY_COLUMNS, text=2)
    for key, name, meaning in LATENCIES:
        unit, values = in_unit(getattr(result.metrics, key))
        label = Text.assemble((name, "bold"), " ", (unit, "dim"))
        table.add_row(label, Text(meaning, style="dim"), *values)
    return table


def result_facts(result: Result) -> list[tuple[str, str]]:
    """All but the latencies, in words."""
    metrics = result.metrics
    rates = throughput(metrics)
    speed = metrics.steps / result.wall_s if result.wall_s else 0.0
    return [
        ("requests", _requests(metrics)),
        (
            "throughput",
            f"{number(rates['requests_per_s'])} requests/s, "
            f"{number(rates['prompt_tokens_per_s'])} prompt and "
            f"{number(rates['output_tokens_per_s'])} output tokens/s",
        ),
        ("KV use", f"{percent(metrics.kv_use_mean)} mean, {percent(metrics.kv_use_peak)} peak"),
        ("preemptions", f"{metrics.preemptions:,}"),
        *_retries(result),
        ("prefix hits", f"{percent(metrics.prefix_hit_rate)} of prompt tokens"),
        *_speculation(result),
        *_experts(result),
        *power_facts(result),
        (
            "time",
            f"{number(metrics.makespan_s)} s simulated in {number(result.wall_s)} s "
            f"({count(metrics.steps, 'step')}, {number(speed)} steps/s)",
        ),
        ("cost basis", cost_basis(result)),
    ]


def _retries(result: Result) -> list[tuple[str, str]]:
    """What failures of instances did, if there were any."""
    failures = sum(change.state is State.FAILED for change in result.records.changes)
    if not failures:
        return []
    again = sum(result.records.requests.retries)
    return [("failures", f"{count(failures, 'instance')}, {count(again, 'request')} started again")]


def _requests(metrics: Report) -> str:
    """What became of them."""
    ended = f"{metrics.finished:,} finished, {metrics.rejected:,} rejected"
    return f"{ended}, {metrics.cancelled:,} cancelled" if metrics.cancelled else ended


def _speculation(result: Result) -> list[tuple[str, str]]:
    """Tokens that a decode gained a step, where drafts were verified."""
    gained = tokens_per_decode(result.records)
    return [("speculation", f"{gained:.2f} tokens a sequence and step")] if gained > 1 else []


def _experts(result: Result) -> list[tuple[str, str]]:
    """How often experts were on the devices, where these keep only some."""
    found = []
    for one in result.deployment.served:
        model = one.step_model
        if isinstance(model, ExpertOffloadStepModel):
            moved = binary(model.totals.link_bytes * one.ranks)
            words = f"{percent(model.totals.hit_rate)} of those touched, {moved} over the host link"
            found.append(("expert hits", words))
    return found


def power_facts(result: Result) -> list[tuple[str, str]]:
    """Goodput where there is an SLO; energy and cost, or what is missing to know them."""
    found = []
    if result.scenario.slo != Slo():
        good = goodput(result.records.requests, result.scenario.slo)
        found.append(("goodput", f"{number(good)} requests/s within the SLO"))
    return [*found, ("energy", _energy_words(result)), ("cost", _cost_words(result.cost))]


def _energy_words(result: Result) -> str:
    energy = result.energy
    if energy is None:
        return "unknown: give [hardware] power"
    alone = energy.total == energy.components["accelerators"]
    return (
        f"{number(energy.joules_per_output_token)} J per output token, "
        f"{number(energy.mean_watts)} W on average{' (accelerators alone)' if alone else ''}"
    )


def _cost_words(cost: CostReport) -> str:
    if cost.usd is None:
        return f"unknown: {cost.basis}"
    rent = f"at ${cost.usd_per_hour:.3g}/h"
    if cost.usd_per_million is None:
        return rent
    if cost.usd_per_million_input is None or cost.usd_per_million_output is None:
        return f"${cost.usd_per_million:.3g} per million tokens {rent}"
    return (
        f"${cost.usd_per_million_input:.3g} per million input, "
        f"${cost.usd_per_million_output:.3g} per million output tokens {rent}"
    )


def cost_basis(result: Result) -> str:
    """Shares of the simulated time by where costs come from, leaving out what has none."""
    parts = [f"{percent(s)} {source.value}" for source, s in result.sources.items() if s > 0]
    return ", ".join(parts) or "none"


def warnings(result: Result) -> list[str]:
    """What a reader must know before trusting the numbers."""
    found = []
    share = result.sources[Source.EXTRAPOLATED]
    if share > EXTRAPOLATED_LIMIT:
        found.append(
            f"warning: {percent(share)} of the simulated time rests on costs extrapolated beyond"
            " what was measured"
        )
    if reason := first_rejection(result):
        times = count(result.metrics.rejected, "request")
        found.append(f"warning: {times} rejected; the first because {reason}")
    return found


def _places(files: Sequence[Path]) -> list[tuple[str, str]]:
    """Folders with the names of the files written there."""
    names: dict[Path, list[str]] = {}
    for file in files:
        names.setdefault(file.parent, []).append(file.name)
    return [(f"{folder}{os.sep}", ", ".join(many)) for folder, many in names.items()]


def step_title(step: TypicalStep) -> str:
    """What the average decode step of an instance is."""
    batch = f"{count(step.sequences, 'sequence')} of {step.context:,} tokens"
    name = step.served.instance.name
    return f"{number(1e3 * step.seconds)} ms for {batch}, the average of {name}"


def step_rows(step: TypicalStep) -> list[tuple[str, str, str, str, float]]:
    """Operator, runs, milliseconds, source, share; operators that take little are one row."""
    total = step.seconds
    shown = [c for c in step.costs[:_MOST_ROWS] if c.seconds >= _LEAST_SHARE * total]
    rows = [(cost.label, cost.count, cost.seconds, cost.source.value) for cost in shown]
    rest = [c for c in step.costs[len(shown) :] if c.seconds >= 0]
    if rest:
        sources = ", ".join(sorted({cost.source.value for cost in rest}))
        seconds = sum(cost.seconds for cost in rest)
        rows.append((count(len(rest), "other"), sum(c.count for c in rest), seconds, sources))
    overlap = [c for c in step.costs if c.seconds < 0]
    rows += [(cost.label, cost.count, cost.seconds, cost.source.value) for cost in overlap]
    return [
        (label, f"{runs}", number(1e3 * seconds), source, seconds / total)
        for label, runs, seconds, source in rows
    ]


def _step_table(step: TypicalStep) -> Table:
    table = columns("operator", "runs", "ms", "share", "", "cost", text=1)
    for column in table.columns[4:]:
        column.justify = "left"
    for label, runs, milliseconds, source, share in step_rows(step):
        bar = Text("█" * round(_BAR_WIDTH * share), style="blue")
        table.add_row(label, runs, milliseconds, percent(share), bar, Text(source, style="dim"))
    return table


def _instances(result: Result) -> Table:
    table = columns("instance", "requests", "steps", "mean KV use", "peak KV use")
    requests = result.records.requests
    sent, prefilled = requests.column("instance"), requests.column("prefill_instance")
    for number_, one in enumerate(result.records.instances):
        mean, peak = kv_use(one)
        steps = int(one.steps.column("steps").sum())
        own = int(((sent == number_) | (prefilled == number_)).sum())
        table.add_row(one.name, f"{own:,}", f"{steps:,}", percent(mean), percent(peak))
    return table
