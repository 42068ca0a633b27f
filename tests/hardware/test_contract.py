"""Every device, those of the tree and the one of the manual, holds to the contract."""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from servesim.errors import InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.norm import Norm
from servesim.hardware import load
from servesim.hardware.contract import ContractError, check_device
from servesim.hardware.contract_kernels import SIZES
from servesim.hardware.cost import STREAM_GAP_S, Cost, Source
from servesim.hardware.load import DEVICES, device_names, load_device
from servesim.hardware.placement import Placement, serial_seconds
from servesim.runtime.step_model import CompiledStepModel

MANUAL = Path(__file__).parents[2] / "docs" / "extending.md"
DEVICE = load_device("rtx_3090")


@pytest.mark.parametrize("name", device_names())
def test_devices_hold_to_the_contract(name):
    check_device(load_device(name))


@pytest.mark.parametrize("name", device_names())
def test_sources_of_a_devices_costs_add_up(name):
    device = load_device(name)
    dtype = "bf16" if "bf16" in device.peak_flops else "fp16"
    ops = (
        Op("layernorm", Norm(512, weights=512, dtype=dtype)),
        Op("qkv_proj", Gemm(768, 512, dtype=dtype, weight=dtype)),
        Op("attention", Attention(8, 2, 64, 64, dtype=dtype, kv_dtype=dtype)),
        Op("experts", Experts(8, 2, 512, 256, dtype=dtype, weight=dtype)),
    )
    graph = OpGraph("toy", (Block("layer", ops, (0, 1)),), (), 0, 0, 1e6, 512, 1000, 4096)
    placement = Placement.tensor_parallel(graph, device)
    model = CompiledStepModel.compile(placement)
    batches = (BatchShape(((7, 0),)), BatchShape(((9000, 100_000),), 4, 40_000, 10_000))
    seconds = sum(model.seconds(batch) for batch in batches)
    assert sum(model.source_seconds().values()) == pytest.approx(seconds)
    gaps = 2 * len(ops) * len(batches) * STREAM_GAP_S  # roofs leave them out
    alone = sum(serial_seconds(placement, batch) for batch in batches)
    assert alone <= seconds * (1 + 1e-9) <= (alone + gaps) * (1 + 2e-9)


@pytest.fixture
def systolic():
    """The manual's device with a cost model of its own."""
    blocks = re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    code = next(block for block in blocks if "SystolicCost" in block)
    assert len(code.strip().splitlines()) <= 40
    yield code
    sys.modules.pop("systolic", None)


def test_the_manuals_device_works_and_is_short(systolic, tmp_path, monkeypatch):
    (tmp_path / "systolic.py").write_text(systolic)
    monkeypatch.syspath_prepend(str(tmp_path))
    device = load_device("systolic:device")
    check_device(device)
    assert device.cost_model.cost(_gemm(256)).seconds == pytest.approx(16 * 16 / 4 * 768e-9)


def test_a_device_in_python_is_known_by_its_file(systolic, tmp_path, monkeypatch):
    sheet = (DEVICES / "rtx_3090.toml").read_text()
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "systolic.py").write_text(systolic)
    (tmp_path / "devices" / "rtx_3090.toml").write_text(sheet)
    monkeypatch.setattr(load, "DEVICES", tmp_path / "devices")
    load._named.cache_clear()
    try:
        assert device_names() == ("rtx_3090", "systolic")
        assert load_device("Systolic").name == "systolic"
    finally:
        load._named.cache_clear()
    assert load_device(str(tmp_path / "devices" / "systolic.py")).kind == "npu"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", "no attribute 'device'"),
        ("import nonesuch", "nonesuch"),
        ("device = (", "cannot be loaded"),
        ("device = 3", "is a int, not a Device"),
    ],
)
def test_a_python_file_without_a_device_is_refused(code, words, tmp_path):
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(InputError, match=words):
        load_device(str(tmp_path / "broken.py"))


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        ("Cost(-1e-3, Source.ANALYTICAL)", "takes -0.001 s"),
        ("Cost(float('nan'), Source.ANALYTICAL)", "takes nan s"),
        ("Cost(max(cycles / CLOCK, moved) / 10, Source.ANALYTICAL)", "peak arithmetic needs"),
        ("Cost(max(cycles / CLOCK, moved), 'mine')", "unknown source 'mine'.*Source.MEASURED"),
        ("Cost(-1.0 if work.m not in (1, 128, 1024) else 1.0, Source.ANALYTICAL)", "takes -1.0 s"),
        ("max(cycles / CLOCK, moved)", "is no Cost"),
    ],
)
def test_the_contract_is_tried_on_loading(cost, words, systolic, tmp_path):
    right = "Cost(max(cycles / CLOCK, moved), Source.ANALYTICAL)"
    assert right in systolic
    (tmp_path / "wrong.py").write_text(systolic.replace(right, cost))
    with pytest.raises(InputError, match=f"breaks the contract of devices: .*{words}"):
        load_device(str(tmp_path / "wrong.py"))


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
        (lambda work, s: -1.0 if work.family == "recurrent" else s, "takes -1.0"),
        (lambda work, s: -1.0 if getattr(work, "window", None) else s, "takes -1.0"),
        (lambda work, s: -1.0 if getattr(work, "latent", False) else s, "takes -1.0"),
        (lambda work, s: -1.0 if getattr(work, "kv_dtype", "") == "fp8" else s, "takes -1.0"),
        (lambda work, s: -1.0 if getattr(work, "weight", "") == "int4" else s, "takes -1.0"),
        (lambda work, s: s / 2 if getattr(work, "kernel", "") == "sampler" else s, "bandwidth"),
        (lambda work, s: s / 2 if getattr(work, "kernel", "") == "rotary" else s, "bandwidth"),
        (lambda work, s: s / 2 if getattr(work, "kernel", "") == "embedding" else s, "bandwidth"),
        (lambda work, s: s if getattr(work, "m", 1) in SIZES else s / 100, "needs"),
    ],
)
def test_the_contract_notices(seconds, complaint):
    device = load_device("rtx_3090")
    wrong = replace(device, costs=Wrong(replace(device, costs=None).cost_model, seconds))
    with pytest.raises(ContractError, match=complaint):
        check_device(wrong)


@dataclass(frozen=True)
class Refusing:
    """``like``, except for what is refused."""

    like: object
    refuses: object

    def cost(self, work):
        if self.refuses(work):
            raise UnsupportedError("not here")
        return self.like.cost(work)


def test_what_must_have_a_price_may_not_be_refused():
    plain = replace(DEVICE, costs=None).cost_model
    wrong = Refusing(plain, lambda work: getattr(work, "m", 0) == 16)
    with pytest.raises(ContractError, match=r"GemmWork\(m=16, .* must have a price: not here"):
        check_device(replace(DEVICE, costs=wrong))


@pytest.mark.parametrize("refused", [(), (1, 16), (1, 16, 8192)])
def test_what_grows_is_noticed_whichever_sizes_are_refused(refused):
    def chosen(work):
        return getattr(work, "kernel", "") == "activation"

    def shrinks(work, s):
        return {128: 1.0, 1024: 0.5}.get(work.rows, s) if chosen(work) else s

    plain = replace(DEVICE, costs=None).cost_model
    costs = Refusing(Wrong(plain, shrinks), lambda work: chosen(work) and work.rows in refused)
    with pytest.raises(ContractError, match=r"rows=1024.* less than .*rows=128"):
        check_device(replace(DEVICE, costs=costs))


def test_the_contract_notices_what_has_no_known_source():
    device = load_device("rtx_3090")
    wrong = Wrong(device.cost_model, lambda work, s: s, "measured")
    with pytest.raises(ContractError, match="unknown source 'measured'"):
        check_device(replace(device, costs=wrong))


def test_what_a_cost_model_must_not_say_is_one_line_in_a_step():
    wrong = replace(DEVICE, costs=Wrong(DEVICE.cost_model, lambda work, s: s, "mine"))
    block = Block("layer", (Op("qkv_proj", Gemm(768, 512)),), (0,))
    graph = OpGraph("toy", (block,), (), 0, 0, 1e6, 512, 1000, 4096)
    model = CompiledStepModel.compile(Placement.tensor_parallel(graph, wrong))
    with pytest.raises(InputError, match="has the unknown source 'mine'"):
        model.seconds(BatchShape(((7, 0),)))


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
