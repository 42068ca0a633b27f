"""A run as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from servesim.runtime.records import InstanceRecords, Records

_MICROSECONDS = 1e6
#: Columns drawn as curves above the steps.
_COUNTERS = ("running", "waiting", "kv_blocks")


def trace_lines(records: Records) -> Iterator[str]:
    """Chrome trace events, a line each: a process for each instance, a slice for each step (or
    row of joined steps), and a counter wherever its value changes.
    """
    yield '{"displayTimeUnit":"ms","traceEvents":[\n'
    separator = ""
    for pid, one in enumerate(records.instances, 1):
        for event in _instance(pid, one):
            yield separator + json.dumps(event, separators=(",", ":"))
            separator = ",\n"
    yield "\n]}\n"


def _instance(pid: int, one: InstanceRecords) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": one.name}}
    yield {"ph": "M", "pid": pid, "tid": 1, "name": "thread_name", "args": {"name": "steps"}}
    steps = one.steps
    shown: dict[str, float] = {}
    for row in range(len(steps)):
        start = _us(steps.start_s[row])
        args = {
            "steps": steps.steps[row],
            "prefills": steps.prefills[row],
            "prefill_tokens": steps.prefill_tokens[row],
            "decodes": steps.decodes[row],
        }
        yield {
            "ph": "X",
            "pid": pid,
            "tid": 1,
            "name": _kind(steps.prefills[row], steps.decodes[row]),
            "ts": start,
            "dur": round(_us(steps.end_s[row]) - start, 3),
            "args": args,
        }
        for name in _COUNTERS:
            value = round(getattr(steps, name)[row], 3)
            if shown.get(name) != value:
                shown[name] = value
                yield {"ph": "C", "pid": pid, "name": name, "ts": start, "args": {name: value}}


def _kind(prefills: int, decodes: int) -> str:
    if prefills and decodes:
        return "mixed"
    return "prefill" if prefills else "decode"


def _us(seconds: float) -> float:
    return round(seconds * _MICROSECONDS, 3)
