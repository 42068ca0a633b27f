"""The documentation names every section, key, kind and column there is."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from servesim import Scenario, simulate
from servesim.cli.main import _command_names, main
from servesim.fields import field_types
from servesim.hardware.host import HostTime
from servesim.hardware.placers import PLACERS
from servesim.runtime.autoscaling import Autoscaling
from servesim.runtime.config import EngineConfig
from servesim.runtime.failures import Outage
from servesim.runtime.frontend import FrontEnd
from servesim.runtime.lengths import LENGTHS
from servesim.runtime.routers import ROUTERS
from servesim.runtime.tiers.eviction import EVICTIONS
from servesim.runtime.tiers.options import Tier
from servesim.runtime.workloads import WORKLOADS
from servesim.scenario.expert_section import ExpertOffloadSection
from servesim.scenario.files import REQUEST_COLUMNS, STEP_COLUMNS, TIER_COLUMNS
from servesim.scenario.load import TOP_LEVEL
from servesim.scenario.sections import (
    HardwareSection,
    Instance,
    ModelSection,
    OffloadSection,
    OutputSection,
    PlacementSection,
)
from servesim.scenario.system import (
    NETWORKS,
    DisaggregationSection,
    FailuresSection,
    NetworkSection,
)

DOCS = Path(__file__).parents[2] / "docs"
SECTIONS = (
    ModelSection, HardwareSection, OutputSection, Instance, EngineConfig, NetworkSection,
    DisaggregationSection, FailuresSection, Outage, Autoscaling, FrontEnd, PlacementSection,
)  # fmt: skip
REGISTRIES = (WORKLOADS, ROUTERS, LENGTHS, PLACERS)


def test_every_key_of_a_scenario_is_documented() -> None:
    text = (DOCS / "scenario.md").read_text(encoding="utf-8")
    plugins = [registry.get(name) for registry in REGISTRIES for name in registry.names()]
    keys = [key for cls in (*SECTIONS, *plugins) for key in field_types(cls)]
    kinds = [name for registry in REGISTRIES for name in registry.names()]
    missing = [word for word in (*TOP_LEVEL, *keys, *kinds, *NETWORKS) if word not in text]
    assert missing == []


def test_every_scenario_shown_is_one() -> None:
    text = (DOCS / "scenario.md").read_text(encoding="utf-8")
    shown = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(shown) >= 3
    for snippet in shown:
        base = Scenario.of(model="Qwen/Qwen3-0.6B", hardware="h100_sxm")
        base.changed(**tomllib.loads(snippet))


@pytest.mark.parametrize("columns", [REQUEST_COLUMNS, STEP_COLUMNS, TIER_COLUMNS])
def test_every_column_is_documented(columns: tuple[str, ...]) -> None:
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    assert [column for column in columns if f"`{column}`" not in text] == []


def test_every_option_of_a_tier_is_documented() -> None:
    text = (DOCS / "memory.md").read_text(encoding="utf-8")
    keys = [
        name for cls in (Tier, OffloadSection, ExpertOffloadSection) for name in field_types(cls)
    ]
    assert [word for word in (*keys, *EVICTIONS.names()) if word not in text] == []
    shown = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    scenario = Scenario.of(model="Qwen/Qwen3-0.6B", hardware="h100_sxm", **tomllib.loads(shown[0]))
    assert [tier["name"] for tier in scenario.instances[0].offload.tiers] == ["dram", "nvme"]
    experts = Scenario.of(hardware="rtx_4090", **tomllib.loads(shown[1])).instances[0]
    assert experts.expert_offload.gpu_expert_slots == 32


def test_every_host_time_of_a_device_is_documented() -> None:
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    assert [name for name in field_types(HostTime) if name not in text] == []


def test_the_readme_leads_to_every_page_and_command() -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    pages = [path.name for path in sorted(DOCS.glob("*.md"))]
    assert [name for name in pages if f"(docs/{name})" not in text] == []
    assert [name for name in _command_names() if f"| `servesim {name} " not in text] == []


def test_the_readme_shows_what_the_command_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    example = DOCS.parent / "examples" / "llama-3.1-8b.toml"
    assert main(["simulate", str(example), "--output-dir", str(tmp_path)]) == 0
    shown = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"output of the command above -->\n```text\n(.*?)```", shown, re.DOTALL)

    def lines(text: str) -> list[str]:
        """Without what differs from run to run: wall-clock time, and where the files are."""
        found = [line.rstrip() for line in text.strip().splitlines()]
        return [line for line in found[: found.index("Files")] if not line.startswith("  time ")]

    assert lines(capsys.readouterr().out) == lines(shown)


def test_the_devices_shown_serve_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    shown = {
        "example.toml": re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0],
        "systolic.py": next(
            code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "SHEET" in code
        ),
    }
    for name, content in shown.items():
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    for device in (str(tmp_path / "example.toml"), "systolic:device"):
        got = simulate(
            model="Qwen/Qwen3-0.6B", hardware=device, workload={"rate": 1.0, "num_requests": 3}
        )
        assert got.metrics.finished == 3
    sys.modules.pop("systolic")
