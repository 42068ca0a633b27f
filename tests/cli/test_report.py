"""The HTML report and the Perfetto trace."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from servesim import Result, simulate
from servesim.cli.render_report import report_html
from servesim.cli.render_trace import trace_lines

VOID = {"meta", "br", "img", "link"}


@pytest.fixture(scope="module")
def result() -> Result:
    return simulate(
        model="Qwen/Qwen3-0.6B",
        hardware="h100_sxm",
        instance=[{"name": "gpu", "count": 2}],
        workload={"rate": 50, "num_requests": 20, "output_tokens": 30},
    )


class Nesting(HTMLParser):
    """Checks that every element is closed in order; counts elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_whole_and_needs_nothing_else(result: Result) -> None:
    text = report_html(result)
    page = Nesting()
    page.feed(text)
    assert page.open == []
    assert page.counts["svg"] == 9
    assert not re.search(r"(src|href)=|url\(|@import|https?://", text)


def test_the_report_is_the_same_for_the_same_run(result: Result) -> None:
    assert report_html(result) == report_html(result)


def test_a_report_without_finished_requests() -> None:
    got = simulate(
        model="Qwen/Qwen3-0.6B",
        hardware="h100_sxm",
        workload={"num_requests": 2, "prompt_tokens": 50_000},
    )
    assert "2 requests rejected" in report_html(got)


def test_the_trace_has_every_step_and_the_counters(result: Result) -> None:
    events = json.loads("".join(trace_lines(result.records)))["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) == result.metrics.steps
    tokens = sum(e["args"]["prefill_tokens"] for e in slices)
    assert tokens == result.records.requests.column("prompt_tokens").sum()
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {"gpu-0", "gpu-1"}
    for pid in (1, 2):
        own = [e for e in slices if e["pid"] == pid]
        for before, after in pairwise(own):
            assert after["ts"] >= before["ts"] + before["dur"] - 0.002
    counters = {e["name"] for e in events if e["ph"] == "C"}
    assert counters == {"running", "waiting", "kv_blocks"}
