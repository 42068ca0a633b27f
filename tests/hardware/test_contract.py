"""Every device, those of the tree and the one of the manual, holds to the contract."""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from servesim.errors import UnsupportedError
from servesim.hardware.contract import ContractError, check_device
from servesim.hardware.cost import Cost, Source
from servesim.hardware.load import device_names, load_device

MANUAL = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.mark.parametrize("name", device_names())
def test_devices_hold_to_the_contract(name):
    check_device(load_device(name))


def test_the_manuals_device_works_and_is_short(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    code = next(block for block in blocks if "SystolicCost" in block)
    assert len(code.strip().splitlines()) <= 40
    (tmp_path / "systolic.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        device = load_device("systolic:device")
        check_device(device)
        assert device.cost_model.cost(_gemm(256)).seconds == pytest.approx(16 * 16 / 4 * 768e-9)
    finally:
        sys.modules.pop("systolic", None)


def test_the_manuals_data_sheet_loads(tmp_path):
    sheet = re.search(r"```toml\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    path = tmp_path / "example.toml"
    path.write_text(sheet.group(1))
    device = load_device(str(path))
    assert (device.name, device.peak_flops["bf16"]) == ("example", 400e12)
    check_device(device)


@dataclass(frozen=True)
class Wrong:
    """The roofline, except for what ``seconds`` makes of it."""

    like: object
    seconds: object
    source: object = Source.ANALYTICAL

    def cost(self, work):
        return Cost(self.seconds(work, self.like.cost(work).seconds), self.source)


@pytest.mark.parametrize(
    ("seconds", "complaint"),
    [
        (lambda work, s: 0.0, "takes 0.0 s"),
        (lambda work, s: -s, "takes -"),
        (lambda work, s: float("inf"), "takes inf"),
        (lambda work, s: s * 0.5 if work.flops > 1e11 else s, "peak arithmetic needs"),
        (lambda work, s: s * 0.5 if work.family == "gemm" else s, "memory bandwidth needs"),
        (lambda work, s: 1 + 1 / (work.flops + 1), "less than"),
    ],
)
def test_the_contract_notices(seconds, complaint):
    device = load_device("rtx_3090")
    wrong = replace(device, costs=Wrong(replace(device, costs=None).cost_model, seconds))
    with pytest.raises(ContractError, match=complaint):
        check_device(wrong)


def test_the_contract_notices_a_cost_for_anything():
    device = load_device("rtx_3090")
    plain = replace(device, costs=None).cost_model

    class Obliging:
        def cost(self, work):
            try:
                return plain.cost(work)
            except UnsupportedError:
                return Cost(1.0, Source.ANALYTICAL)

    with pytest.raises(ContractError, match="must be refused"):
        check_device(replace(device, costs=Obliging()))


def _gemm(m):
    from servesim.graph.work import GemmWork

    return GemmWork(m, 4096, 4096, label="o_proj")
