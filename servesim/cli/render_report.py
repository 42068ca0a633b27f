"""The results of a run as an HTML report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from servesim import __version__
from servesim.charts import Chart, Series
from servesim.cli import render_html as html
from servesim.cli.render import LATENCIES, LATENCY_COLUMNS, in_unit, number, percent
from servesim.cli.render_deployment import (
    distinct_graphs,
    kv_capacity,
    memory_parts,
    model_facts,
    operator_rows,
    placement_facts,
    traffic,
)
from servesim.cli.render_result import result_facts, step_rows, step_title, warnings
from servesim.graph.opgraph import OpGraph
from servesim.runtime import metrics
from servesim.scenario.build import Served
from servesim.scenario.run import Result
from servesim.scenario.timeline import timeline
from servesim.scenario.typical import TypicalStep, typical_steps
from servesim.units import gib

Floats = npt.NDArray[np.float64]

#: Shares that a bar shows, besides those of the rest.
_MOST_SHARES = 4
#: A latency axis is logarithmic when its values span more than this factor.
_LOG_SPAN = 20.0


def report_html(result: Result) -> str:
    """The whole report as one HTML document; the same run gives the same bytes."""
    scenario, served = result.scenario, result.deployment.served
    models = " + ".join(dict.fromkeys(one.graph.model for one in served))
    return html.page(
        scenario.name,
        f"{models} · {traffic(scenario.workload)}",
        [
            _headline(result),
            *(html.note(line) for line in warnings(result)),
            html.section("Latency", _latency_table(result), html.charts(_latency_charts(result))),
            html.section("Over time", html.charts(_time_charts(result))),
            *(_step(step) for step in typical_steps(result)),
            *_energy(result),
            html.section("Run", html.facts(_facts(result)), _sources(result)),
            *(_placement(one) for one in served),
            *(_model(graph) for graph in distinct_graphs(result.deployment)),
        ],
        f"servesim {__version__}",
    )


def _headline(result: Result) -> str:
    report = result.metrics
    (ttft_unit, ttft), (tpot_unit, tpot) = in_unit(report.ttft), in_unit(report.tpot)
    return html.tiles(
        [
            ("Requests/s", number(report.request_throughput), f"{report.finished:,} finished"),
            ("Output tokens/s", number(report.output_throughput), f"{report.steps:,} steps"),
            ("Mean TTFT", f"{ttft[0]} {ttft_unit}", f"p99 {ttft[-1]} {ttft_unit}"),
            ("Mean TPOT", f"{tpot[0]} {tpot_unit}", f"p99 {tpot[-1]} {tpot_unit}"),
            ("Peak KV use", percent(report.kv_use_peak), f"{report.preemptions:,} preemptions"),
        ]
    )


def _latency_table(result: Result) -> str:
    rows = []
    for key, name, meaning in LATENCIES:
        unit, values = in_unit(getattr(result.metrics, key))
        rows.append([f"{name} ({unit}), {meaning}", *values])
    return html.table(["", *LATENCY_COLUMNS], rows)


def _latency_charts(result: Result) -> list[Chart]:
    requests = result.records.requests
    gaps = metrics.itl(result.records.instances)
    samples = {
        "ttft": _ranked(metrics.ttft(requests)),
        "tpot": _ranked(metrics.tpot(requests)),
        "itl": (gaps.values, np.cumsum(gaps.weights) / max(gaps.total, 1.0)),
        "e2e": _ranked(metrics.e2e(requests)),
    }
    return [_cdf(name, *samples[key], getattr(result.metrics, key)) for key, name, _ in LATENCIES]


def _ranked(values: Floats) -> tuple[Floats, Floats]:
    """Values in order, and the share of all that are no larger."""
    return np.sort(values), np.arange(1, len(values) + 1) / max(len(values), 1)


def _cdf(name: str, values: Floats, shares: Floats, known: metrics.Distribution) -> Chart:
    unit, _ = in_unit(known)
    scale = 1.0 if unit == "s" else 1e3
    marks = [(known.p50 * scale, "p50"), (known.p99 * scale, "p99")] if len(values) else []
    span = values[-1] / values[0] if len(values) and values[0] > 0 else 1.0
    return Chart(
        name,
        (Series("share", (values * scale).tolist(), shares.tolist()),),
        x_unit=unit,
        y_unit="share of requests" if name != "ITL" else "share of tokens",
        x_log=bool(span > _LOG_SPAN),
        x_zero=False,
        y_max=1.0,
        marks=tuple(marks),
    )


def _time_charts(result: Result) -> list[Chart]:
    course = timeline(result.records)
    times = course.starts.tolist()

    def series(name: str, values: Floats) -> Series:
        return Series(name, times, values.tolist(), stepped=True)

    running, waiting = series("running", course.running), series("waiting", course.waiting)
    charts = [
        Chart("Output tokens", (series("output", course.output_rate),), "s", "per second"),
        Chart("Prompt tokens", (series("prompt", course.prompt_rate),), "s", "per second"),
        Chart("Requests", (running, waiting), "s"),
        Chart("KV cache in use", (series("KV", 100 * course.kv_share),), "s", "%", filled=True),
    ]
    if result.energy is not None:
        edges = np.append(course.starts, course.starts[-1] + course.width)
        power = series("power", result.energy.watts(edges))
        charts.append(Chart("Power", (power,), "s", "W", filled=True))
    return charts


def _facts(result: Result) -> list[tuple[str, str]]:
    """Only what depends on the scenario: the report has no wall times."""
    return [(k, v) for k, v in result_facts(result) if k not in {"time", "cost basis"}] + [
        ("simulated", f"{number(result.metrics.makespan_s)} s")
    ]


def _sources(result: Result) -> str:
    parts = [(f"{source.value} costs", share) for source, share in result.sources.items() if share]
    return html.shares(parts)


def _energy(result: Result) -> list[str]:
    """By component, and what the accelerators' part went into, the largest first."""
    energy = result.energy
    if energy is None or not energy.total:
        return []
    waiting = {state: energy.states[state] for state in ("standby", "idle")}
    bars = [
        html.shares(_parts(table))
        for table in (energy.components, {**energy.families, **waiting})
        if sum(value > 0 for value in table.values()) > 1
    ]
    return [html.section("Energy", *bars, note=f"{number(energy.total / 1e3)} kJ")]


def _parts(joules: Mapping[str, float]) -> list[tuple[str, float]]:
    """The most of a sum as shares of it, and the rest."""
    total = sum(joules.values())
    ranked = sorted(joules.items(), key=lambda item: -item[1])
    shown = [(name, value / total) for name, value in ranked[:_MOST_SHARES] if value > 0]
    rest = 1.0 - sum(share for _, share in shown)
    return shown + ([("other", rest)] if rest > 1e-6 else [])


def _step(step: TypicalStep) -> str:
    rows = [
        [label, source, runs, milliseconds, percent(share)]
        for label, runs, milliseconds, source, share in step_rows(step)
    ]
    return html.section(
        "Decode step",
        html.table(["operator", "cost", "runs", "ms", "share"], rows, text=2),
        note=step_title(step),
    )


def _model(graph: OpGraph) -> str:
    return html.section(graph.model, html.facts(model_facts(graph)), _operators(graph))


def _placement(one: Served) -> str:
    many = one.instance.count
    title = f"{one.instance.name} x {many}" if many > 1 else one.instance.name
    sizes = [(f"{name} {gib(size)}", size) for name, size in memory_parts(one)]
    total = sum(size for _, size in sizes)
    return html.section(
        title,
        html.facts([*placement_facts(one), ("KV cache", kv_capacity(one))]),
        html.shares([(label, size / total) for label, size in sizes]),
    )


def _operators(graph: OpGraph) -> str:
    rows = [
        [f"{block.count} x {row[0]}" if block.layers else row[0], *row[1:]]
        for block in graph.blocks
        for row in operator_rows(block)
    ]
    return html.table(["operator", "kind", "shape", "weights", "FLOP a token"], rows, text=3)
