"""Host time of a step: the scenario's, the device's, or a default."""

from dataclasses import replace

import pytest

from servesim.hardware.host import HostTime
from servesim.hardware.load import load_device
from servesim.models.load import load_graph
from servesim.scenario.host import HOST_STEP_S, host_times
from servesim.scenario.sections import HardwareSection


def test_the_section_comes_before_the_device_and_the_device_before_the_default() -> None:
    plain = load_device("h100_sxm")
    known = replace(plain, host=HostTime(1e-3, 1e-5, 1e-6, 0.1))
    graph = load_graph("meta-llama/Llama-3.1-8B")
    operators = sum(len(block.ops) * block.count for block in graph.blocks)
    assert host_times(HardwareSection(), plain, graph) == {"host_s": HOST_STEP_S}
    assert host_times(HardwareSection(host_step_s=0.5), known, graph) == {"host_s": 0.5}
    assert host_times(HardwareSection(), known, graph) == {
        "host_s": pytest.approx(1e-3 + 1e-6 * operators),
        "host_per_sequence_s": 1e-5,
        "host_share": 0.1,
    }
