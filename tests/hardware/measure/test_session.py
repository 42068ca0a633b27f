"""A whole measurement with torch's kernels, in a moment."""

import json
import time

import pytest

from servesim.errors import InputError
from servesim.graph.work import AttentionWork, GemmWork
from servesim.hardware.contract import check_device
from servesim.hardware.cost import Source
from servesim.hardware.load import load_device
from servesim.hardware.measure.device_file import Origin
from servesim.hardware.measure.machine import Machine
from servesim.hardware.measure.plan import Limits
from servesim.hardware.measure.session import Listener, Order, conclude, measure
from servesim.hardware.measure.timer import CpuTimer
from servesim.hardware.measure.unmeasured import Unmeasured

pytest.importorskip("torch")
pytest.importorskip("scipy")
MACHINE = Machine("toy machine", "cpu", 1, 4e9, 1e6)
LIMITS = Limits(tokens=32, sequences=4, context=64)
ORIGIN = Origin("2026-01-02", "servesim profile --device cpu", {"torch": "1.2"}, "torch")


def order(**given):
    return Order("cpu", "torch", 20.0, LIMITS, **given)


def test_measured_kernels_become_a_device_that_knows_them(tmp_path, graph, monkeypatch):
    monkeypatch.setattr("servesim.hardware.measure.rounds._ROUND_S", 1e-4)
    out = tmp_path / "device.toml"
    tell = Listener()
    outcome = measure(order(), MACHINE, CpuTimer(), [graph], tmp_path, tell)
    fitted = conclude(outcome, MACHINE, ORIGIN, out, tell)
    assert not outcome.unmeasured
    assert outcome.missing == 0
    device = load_device(str(out))
    assert (device.name, device.title, device.kind) == ("device", "toy machine", "cpu")
    check_device(device)
    costs = device.cost_model
    for work in (GemmWork(5, 128, 64), AttentionWork(((8, 0),), 2, 30, 15, 4, 2, 16, 16)):
        assert costs.cost(work).source is Source.MEASURED
    assert costs.cost(GemmWork(5, 100, 64)).source is Source.CALIBRATED
    whole = fitted.errors[-1]
    assert (whole.family, whole.kernels) == ("all", len(outcome.kernels))
    assert whole.median < 0.5
    text = out.read_text()
    assert "Measured by servesim profile on 2026-01-02: torch kernels, torch 1.2" in text


def test_another_machine_is_refused(tmp_path, graph):
    (tmp_path / "kernels.jsonl").write_text(json.dumps({"format": 1, "machine": "other"}) + "\n")
    with pytest.raises(InputError, match="machine was 'other', is 'toy machine'"):
        measure(order(), MACHINE, CpuTimer(), [graph], tmp_path, Listener())


def test_interrupting_keeps_what_is_there_and_writes_a_file(tmp_path, graph, monkeypatch):
    monkeypatch.setattr("servesim.hardware.measure.rounds._ROUND_S", 1e-4)

    def stop(progress):
        if progress.done > 40:
            raise KeyboardInterrupt

    outcome = measure(order(), MACHINE, CpuTimer(), [graph], tmp_path, Listener(stop))
    assert outcome.interrupted
    assert outcome.missing > 0
    assert outcome.kernels
    conclude(outcome, MACHINE, ORIGIN, tmp_path / "device.toml", Listener())
    load_device(str(tmp_path / "device.toml"))


def test_a_smaller_order_adds_to_what_is_there_and_takes_nothing_away(tmp_path, graph, monkeypatch):
    monkeypatch.setattr("servesim.hardware.measure.rounds._ROUND_S", 1e-4)
    first = order(only=["norm", "sampler"])
    before = measure(first, MACHINE, CpuTimer(), [graph], tmp_path, Listener())
    small = Order("cpu", "torch", 20.0, Limits(4, 2, 64), only=["norm"])
    after = measure(small, MACHINE, CpuTimer(), [graph], tmp_path, Listener())
    assert before.kernels.keys() == after.kernels.keys()
    assert after.missing == 0


def test_kernels_nobody_provides_are_named_before_the_folder_is_looked_at(tmp_path, graph):
    (tmp_path / "kernels.jsonl").write_text(json.dumps({"format": 1, "machine": "other"}) + "\n")
    wrong = Order("cpu", "torchh", 20.0, LIMITS)
    with pytest.raises(InputError, match="did you mean 'torch'"):
        measure(wrong, MACHINE, CpuTimer(), [graph], tmp_path, Listener())


def test_operators_too_large_are_listed_by_name(tmp_path, graph, monkeypatch):
    monkeypatch.setattr("servesim.hardware.measure.rounds._ROUND_S", 1e-4)
    limits = Limits(tokens=4, sequences=2, context=64, weight_bytes=1e5)
    asked = Order("cpu", "torch", 20.0, limits, only=["lm_head", "sampler"])
    found = measure(asked, MACHINE, CpuTimer(), [graph], tmp_path, Listener()).unmeasured
    assert found == [Unmeasured("lm_head", ("bf16 1000x64",), 1, "weights exceed 0.1 MB")]


def test_no_operator_to_measure_is_an_error(tmp_path, graph):
    with pytest.raises(InputError, match="nothing to measure"):
        measure(order(only=["experts"]), MACHINE, CpuTimer(), [graph], tmp_path, Listener())


def test_the_clock_of_a_cpu_sees_a_nap():
    nap, nothing = CpuTimer().seconds([lambda: time.sleep(0.01), lambda: None])
    assert nap >= 0.01 > nothing


def test_a_cpu_runs_calls_as_engines_do_without_recording_gradients():
    import torch

    seen = []
    CpuTimer().seconds([lambda: seen.append(torch.is_inference_mode_enabled())])
    assert seen == [True]
    assert not torch.is_inference_mode_enabled()
