"""Every causal-LM type of ``transformers`` traces: equal layers once, prefill and decode."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from servesim.models.build_coverage import FAILED, NOT_A_MODEL, OK, causal_types, cover
from servesim.models.build_facts import NOT_STANDALONE

REPORT = Path(__file__).parents[2] / "validation" / "coverage.csv"


def rows() -> dict[str, dict[str, str]]:
    with REPORT.open(encoding="utf-8") as stream:
        return {row["model_type"]: row for row in csv.DictReader(stream)}


@pytest.mark.parametrize("model_type", causal_types())
def test_traces_as_the_report_says(model_type: str) -> None:
    row, known = cover(model_type), rows()[model_type]
    assert row.verdict == known["verdict"], row.note
    assert (row.operators, row.kinds) == (int(known["operators"]), known["kinds"])
    assert (row.attention, row.state) == (known["attention"], known["state"])
    assert row.parameters == int(known["parameters"])


def test_the_report_is_complete() -> None:
    verdicts = {name: row["verdict"] for name, row in rows().items()}
    assert tuple(sorted(verdicts)) == causal_types()
    assert {t for t, v in verdicts.items() if v == NOT_A_MODEL} == set(NOT_STANDALONE)
    assert sum(v == OK for v in verdicts.values()) >= 184
    assert all(rows()[t]["note"] for t, v in verdicts.items() if v in {FAILED, NOT_A_MODEL})
