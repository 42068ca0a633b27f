"""Power of accelerators, clocks and servers; rents."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import CollectiveWork, GemmWork, MemoryWork
from servesim.hardware.cost import Cost, Source
from servesim.hardware.device import Device, Efficiency, MemoryTier
from servesim.hardware.load import device_names, load_device
from servesim.hardware.power.accelerator import AcceleratorPower, accelerator_power
from servesim.hardware.power.clock import ClockedCost, at_clock, power_at_clock
from servesim.hardware.power.server import server_power
from servesim.hardware.prices import price_of

GPU = Device(
    "gpu",
    "gpu",
    {"bf16": 1e14},
    MemoryTier("HBM", 1e11, 1e12),
    efficiency=Efficiency(1.0, 1.0, 0.0),
    tdp_watts=400.0,
    idle_watts=50.0,
)
POWER = AcceleratorPower(50.0, 90.0, 10.0, 200.0, 100.0, 300.0, 400.0)


def test_a_data_sheet_is_enough() -> None:
    power = accelerator_power(GPU)
    assert power.idle_watts == 50.0
    assert power.limit_watts == 400.0
    # As on the H100 that the shares were fitted to: 320 W of its 700 W.
    assert power.active_watts == pytest.approx(400 * 320 / 700, rel=0.01)


def test_what_is_known_wins() -> None:
    known = replace(GPU, power={"idle_watts": 40.0, "source": "somebody"})
    assert accelerator_power(known).idle_watts == 40.0
    assert accelerator_power(known, {"idle_watts": 30.0}).idle_watts == 30.0
    assert accelerator_power(GPU, limit_watts=250.0).limit_watts == 250.0
    assert accelerator_power(GPU, limit_watts=900.0).limit_watts == 400.0  # its own limit stays


def test_an_unknown_key_and_an_impossible_cap_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="idle_watt"):
        accelerator_power(GPU, {"idle_watt": 1.0})
    with pytest.raises(InputError, match="leaves nothing above"):
        accelerator_power(GPU, limit_watts=50.0)
    with pytest.raises(InputError, match="negative"):
        accelerator_power(GPU, {"memory_watts": -1.0})


def test_energy_of_work_is_by_share_of_the_peaks() -> None:
    # Half a second at full bandwidth and a tenth at peak arithmetic.
    assert POWER.work_joules(0.5, 0.1) == pytest.approx(50.0 + 30.0)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_lower_clock_slows_arithmetic_and_not_memory(share: float) -> None:
    costs = ClockedCost(GPU.cost_model, GPU, share)
    bound_by_arithmetic = GemmWork(8192, 8192, 8192)
    bound_by_memory = MemoryWork("copy", 1, 1e9, 1e9)
    for work, slowdown in ((bound_by_arithmetic, 1 / share), (bound_by_memory, 1.0)):
        full = GPU.cost_model.cost(work).seconds
        assert costs.cost(work).seconds == pytest.approx(full * slowdown)


def test_a_measured_kernel_slows_down_as_its_roofline() -> None:
    class Table:
        def cost(self, work: object) -> Cost:
            return Cost(7.0, Source.MEASURED)

    costs = ClockedCost(Table(), GPU, 0.5)
    assert costs.cost(GemmWork(8192, 8192, 8192)) == Cost(14.0, Source.MEASURED)
    assert costs.cost(CollectiveWork("all_reduce", 1e6, 2)) == Cost(7.0, Source.MEASURED)


@given(st.floats(0.2, 1.0), st.floats(0.2, 1.0))
def test_power_rises_with_the_clock(one: float, other: float) -> None:
    low, high = (power_at_clock(POWER, share) for share in sorted((one, other)))
    assert POWER.idle_watts <= low.active_watts <= high.active_watts <= POWER.active_watts
    assert low.compute_watts <= high.compute_watts <= POWER.compute_watts
    assert low.memory_watts == POWER.memory_watts


def test_the_full_clock_changes_nothing() -> None:
    assert power_at_clock(POWER, 1.0) == POWER
    assert at_clock(GPU, 1.0).peak_flops == GPU.peak_flops


def test_parts_of_a_server() -> None:
    server = server_power(
        {
            "cpu": {"idle_watts": 10.0, "active_watts": 110.0, "utilization": 0.2},
            "dram": {"capacity_bytes": 100e9, "idle_watts": 3.0, "picojoules_per_bit": 5.0},
            "nic": {"count": 2, "idle_watts": 15.0},
        }
    )
    assert server.cpu.watts(serving=0.7) == pytest.approx(30.0)
    assert server.dram.watts == pytest.approx(4 * 3.0)  # 100 GB are four DIMMs of 32 GB
    assert server.dram.joules(1e12) == pytest.approx(40.0)  # 8e12 bits at 5 pJ
    assert server.nic.watts == pytest.approx(30.0)


def test_a_cpu_that_works_while_steps_run() -> None:
    cpu = server_power(
        {"cpu": {"active_watts": 100.0, "utilization": 0.1, "serving_utilization": 0.5}}
    ).cpu
    assert cpu.watts(0.0) == pytest.approx(10.0)
    assert cpu.watts(0.5) == pytest.approx(30.0)


def test_a_server_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UnknownNameError, match="cpus"):
        server_power({"cpus": {}})
    with pytest.raises(UnknownNameError, match="idle"):
        server_power({"cpu": {"idle": 1.0}})
    with pytest.raises(InputError, match="pue"):
        server_power({"pue": 0.9})


def test_every_rent_is_of_a_known_device_and_dated() -> None:
    rents = {name: price_of(name) for name in device_names()}
    known = {name: price for name, price in rents.items() if price is not None}
    assert {"h100_sxm", "b200_sxm", "rtx_a6000"} <= set(known)
    for price in known.values():
        assert 0.1 < price.usd_per_hour < 20
        assert price.source
        assert len(price.date) == len("2026-11")
    assert price_of("no such device") is None


def test_every_device_with_a_tdp_can_be_powered() -> None:
    for name in device_names():
        device = load_device(name)
        if device.tdp_watts or device.power:
            power = accelerator_power(device)
            assert power.idle_watts < power.active_watts + power.memory_watts
