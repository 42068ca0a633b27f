"""The reference paper's measured figures."""

from __future__ import annotations

from pathlib import Path

from servesim.validation.paper.figures import PaperData, compare_figure, figure_numbers
from servesim.validation.report.markdown import signed, table

ORDER = 60
TITLE = "The figures of the LLMServingSim 2.0 paper"


def body(data: Path) -> str | None:
    """Every figure there is a comparison for."""
    if not (data / "paper").is_dir():
        return None
    paper = PaperData.at(data / "paper")
    rows = []
    for number in figure_numbers():
        for case, metrics in compare_figure(number, paper).items():
            for name, compared in metrics.items():
                values = [f"{compared.measured:.4g}", f"{compared.simulated:.4g}"]
                rows.append([number, case, name, *values, signed(compared.error)])
    return (
        "RTX A6000 servers (`servesim validate paper`), from layer latencies measured on them.\n\n"
        + table(["figure", "case", "metric", "measured", "simulated", "error"], rows, text=3)
    )
