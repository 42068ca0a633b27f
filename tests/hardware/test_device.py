"""Devices by name, file and dotted path, and what is refused."""

import dataclasses

import pytest

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.graph.work import CollectiveWork, GemmWork, MemoryWork
from servesim.hardware.cost import Cost, Source
from servesim.hardware.device import Device, Efficiency, MemoryTier
from servesim.hardware.host import HostTime
from servesim.hardware.load import DEVICES, device_names, load_device
from servesim.hardware.roofline import RooflineCost

SHEET = """
kind = "gpu"
[peak_flops]
bf16 = 100e12
[memory]
name = "HBM"
capacity_bytes = 10e9
bandwidth = 1e12
"""


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("H100", "h100_sxm"),
        ("RTXPRO6000", "rtx_pro_6000"),
        ("rtx-pro-6000", "rtx_pro_6000"),
        ("RTX A6000", "rtx_a6000"),
        ("A6000", "rtx_a6000"),
        ("TPU-v6e-1", "tpu_v6e"),
        ("mi300x", "mi300x"),
    ],
)
def test_names_and_aliases(asked, name):
    assert load_device(asked).name == name


@pytest.mark.parametrize("name", device_names())
def test_a_device_is_called_like_its_file(name):
    assert load_device(name).name == name


def test_every_data_sheet_is_complete():
    for path in DEVICES.glob("*.toml"):
        device = load_device(path.stem)
        assert device.title
        assert device.cores > 1
        assert device.peer_link is not None
        assert {"bf16", "fp16"} & set(device.peak_flops)
        assert 1e10 < device.memory.capacity_bytes < 1e12


def test_unknown_name_proposes_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'h100_sxm'"):
        load_device("h100_smx")


def test_a_file_of_ones_own(tmp_path):
    device = load_device(write(tmp_path, SHEET))
    assert device.name == "mine"
    assert device.peak_flops == {"bf16": 100e12}
    assert device.efficiency == Efficiency()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clocks = 1\n" + SHEET, "did you mean 'clock_hz'"),
        (SHEET + "bandwith = 1e12", "did you mean 'bandwidth'"),
        (SHEET.replace("bandwidth = 1e12", ""), "bandwidth is missing"),
        (SHEET.replace('"gpu"', '"toaster"'), "toaster"),
        (SHEET.replace("bandwidth = 1e12", "bandwidth = -1"), "must be positive, not -1"),
        (SHEET.replace("bandwidth = 1e12", 'bandwidth = "1"'), "must be a number, not '1'"),
        (SHEET.replace("bandwidth = 1e12", "bandwidth = inf"), "must be positive, not inf"),
        (SHEET.replace("100e12", '"x"'), "bf16 must be a number, not 'x'"),
        ("cores = -1\n" + SHEET, "cores must be positive, not -1"),
        (
            SHEET + '[cache]\nname = "L2"\nbandwidth = 1e13\ncapacity_bytes = nan',
            "capacity_bytes must be positive, not nan",
        ),
        (
            SHEET + '[scale_up]\nname = "x"\nbandwidth = 1e9\nlatency = inf',
            "latency must be at most 3600 seconds: inf",
        ),
        (
            SHEET + '[scale_up]\nname = "x"\nbandwidth = 0\nlatency = 0',
            "bandwidth must be positive",
        ),
        (SHEET + "[efficiency]\ncompute = 1.5", "compute must be within"),
        (
            SHEET + '[scale_up]\nname = "x"\nbandwidth = 1\nlatency = 0\nmulticast = "yes"',
            "must be true or false",
        ),
        (
            SHEET + '[scale_up]\nname = "x"\nbandwidth = 1\nlatency = 0\ngeneration = "hoper"',
            "generation of link x: 'hoper'; did you mean 'hopper'",
        ),
        ("kind = ", "not TOML"),
        ("memory = 3\n" + SHEET.split("[memory]", maxsplit=1)[0], "must be a table"),
    ],
)
def test_malformed_files(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_device(write(tmp_path, text))


def test_missing_file_and_bad_dotted_path():
    with pytest.raises(InputError, match="No such file"):
        load_device("nowhere/mine.toml")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_device("servesim.units:nothing")
    with pytest.raises(InputError, match="not a Device"):
        load_device("servesim.units:GIB")


def device():
    return Device(
        "toy",
        "gpu",
        {"bf16": 100e12},
        MemoryTier("HBM", 10e9, 1e12),
        efficiency=Efficiency(compute=0.5, memory=0.8, launch=2e-6),
    )


def test_peaks_are_of_known_number_formats():
    with pytest.raises(InputError, match="'bf17'; did you mean 'bf16'"):
        dataclasses.replace(device(), peak_flops={"bf17": 1e12})


def test_roofline_by_hand():
    costs = RooflineCost(device())
    # 2·1000·1000·1000 FLOP at half of 100 TFLOP/s: 40 µs; 6 MB at 0.8 TB/s: 7.5 µs.
    assert costs.cost(GemmWork(1000, 1000, 1000)).seconds == pytest.approx(42e-6)
    # 8 MB at 0.8 TB/s: 10 µs.
    assert costs.cost(MemoryWork("copy", 1, 4e6, 4e6)) == Cost(
        pytest.approx(12e-6), Source.ANALYTICAL
    )
    assert costs.cost(MemoryWork("copy", 0, 0.0, 0.0)).seconds == 0


def test_roofline_refuses():
    costs = device().cost_model
    with pytest.raises(UnsupportedError, match="toy cannot compute in fp8"):
        costs.cost(GemmWork(1, 1, 1, "fp8", "fp8"))
    with pytest.raises(UnsupportedError, match="collective"):
        costs.cost(CollectiveWork("all_reduce", 1e6, 2))


def test_host_times_of_a_device_file(tmp_path):
    host = load_device(write(tmp_path, SHEET + "[host]\nstep_s = 1e-3\nper_sequence_s = 1e-5")).host
    assert host == HostTime(1e-3, 1e-5)
    assert host.step_seconds(operators=100) == pytest.approx(1e-3)
    assert HostTime(1e-3, 0.0, 2e-6, 0.1).step_seconds(50) == pytest.approx(1.1e-3)
    assert load_device(write(tmp_path, SHEET)).host is None
    with pytest.raises(InputError, match="per_sequence_s must not be negative"):
        load_device(write(tmp_path, SHEET + "[host]\nper_sequence_s = -1"))
    with pytest.raises(UnknownNameError, match="step_ms"):
        load_device(write(tmp_path, SHEET + "[host]\nstep_ms = 1"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('boom')", "cannot be loaded: ValueError: boom"),
        ("def device():\n    raise ValueError('boom')", "cannot be made: ValueError: boom"),
        ("def device(name): ...", "cannot be made: TypeError"),
    ],
)
def test_what_fails_in_a_device_of_python_is_said_in_one_line(tmp_path, code, message):
    path = tmp_path / "own.py"
    path.write_text(code)
    with pytest.raises(InputError, match=message):
        load_device(str(path))
    with pytest.raises(InputError, match="Empty module name"):
        load_device(":device")
