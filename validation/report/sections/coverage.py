"""Which architectures can be traced."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from servesim.validation.report.markdown import table

ORDER = 80
TITLE = "Architectures traced"

_TABLE = Path(__file__).parents[2] / "coverage.csv"


def body(data: Path) -> str | None:
    """Verdicts of the coverage table in the tree."""
    if not _TABLE.is_file():
        return None
    with _TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    verdicts = Counter(row["verdict"] for row in rows)
    others = [[row["model_type"], row["verdict"], row["note"]] for row in rows if row["note"]]
    return (
        f"All {len(rows)} model types of the causal-LM mapping of the installed `transformers` "
        "(`servesim trace --all --report validation/coverage.csv`): "
        + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        + ".\n\n"
        + table(["type", "verdict", "note"], others, text=3)
    )
