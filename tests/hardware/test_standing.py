"""What the costs of a device are said to rest on is what its cost model answers with."""

from __future__ import annotations

from pathlib import Path

import pytest

from servesim.cli.main import main
from servesim.graph.work import AttentionWork, CollectiveWork, GemmWork, MoeWork, RecurrentWork
from servesim.hardware.calibrated import FORMS
from servesim.hardware.collective_tables import collective_cost
from servesim.hardware.cost import Source
from servesim.hardware.load import device_names, load_device
from servesim.hardware.standing import COLLECTIVE, FAMILIES, is_own, standing
from servesim.validation.report.sections import devices as section

#: Kernels of sizes that all tables of a family have.
ASKED = {
    "gemm": GemmWork(64, 4096, 4096, "bf16", "bf16"),
    "decode": AttentionWork((), 8, 8 * 1024, 1024, 32, 8, 128, 128),
    "prefill": AttentionWork(((512, 0),), 0, 0, 0, 32, 8, 128, 128),
    "moe": MoeWork(64, 512.0, 126.0, 128, 8, 2048, 768),
    "recurrent": RecurrentWork("gated_delta", 0, 0, 16, 32, 128, 128, 3e6, 4e4, 2e6),
}


@pytest.mark.parametrize("name", device_names())
def test_what_is_said_to_be_the_devices_own_is_calibrated(name: str) -> None:
    device = load_device(name)
    found = standing(device)
    assert set(found) == set(FAMILIES) == {*FORMS, COLLECTIVE}
    if "bf16" in device.peak_flops:
        for family, work in ASKED.items():
            calibrated = device.cost_model.cost(work).source is Source.CALIBRATED
            assert calibrated == is_own(found[family]), family
    several = collective_cost(device, load_device).cost(CollectiveWork("all_reduce", 1e6, 2))
    assert (several.source is Source.CALIBRATED) == is_own(found["collective"])


@pytest.mark.parametrize(
    ("name", "family", "basis"),
    [
        ("rtx_a6000", "decode", "a100_sxm"),
        ("rtx_a6000", "gemm", "calibrated"),
        ("tpu_v6e", "moe", "h100_sxm"),
        ("tpu_v5e", "gemm", "tpu_v6e"),
        ("h100_nvl", "recurrent", "rtx_pro_6000"),  # its lender's lender
        ("hbm_pim", "decode", "DRAM timing"),
        ("xeon_8480", "gemm", "data sheet"),
        ("mi300x", "collective", "data sheet"),
    ],
)
def test_lenders_are_those_whose_measurements_they_are(name: str, family: str, basis: str) -> None:
    assert standing(load_device(name))[family] == basis


def test_the_command_lists_all_and_details_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    lines = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line
    }
    assert lines["rtx_a6000"] == ["own", "lent", "own", "lent", "lent", "own", "lent"]
    assert set(device_names()) <= set(lines)
    assert main(["devices", "A6000"]) == 0
    out = capsys.readouterr().out
    assert "lent by a100_sxm" in out
    assert "prefill.bf16_128" in out
    assert "new 1,024" in out


def test_the_report_has_a_line_for_every_device() -> None:
    lines = section.body(Path()).splitlines()
    for name in device_names():
        assert sum(line.startswith(f"| {name} |") for line in lines) == 1
