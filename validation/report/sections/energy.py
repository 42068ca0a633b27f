"""Energy a token of saturated servers."""

from __future__ import annotations

from pathlib import Path

from servesim.validation.energy.configurations import read_configurations
from servesim.validation.energy.report import Errors, validate_energy
from servesim.validation.report.markdown import percent, table

ORDER = 70
TITLE = "Energy of saturated servers"


def body(data: Path) -> str | None:
    """Every GPU of the energy set."""
    path = data / "energy" / "h100_vllm.csv"
    if not path.is_file():
        return None
    rows = []
    for gpu, found in validate_energy(read_configurations(path)).items():
        rows.append([gpu, "held out", *_cells(found.held_out)])
        rows.append([gpu, "as shipped", *_cells(found.shipped)])
    return (
        "vLLM on H100, ML.ENERGY v3 (`servesim validate energy`); medians of absolute errors. Held "
        "out: power coefficients fitted on a third of the models, tested on the others. Aimed at: "
        "J/token within 15 %.\n\n"
        + table(["GPU", "", "configurations", "J/token", "watts", "step time"], rows, text=2)
    )


def _cells(errors: Errors) -> list[str]:
    medians = (
        percent(errors.joules_per_token, 0.15),
        percent(errors.watts),
        percent(errors.step),
    )
    return [str(errors.count), *medians]
