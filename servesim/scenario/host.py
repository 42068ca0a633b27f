"""What the host takes of an instance's steps, where asynchronous scheduling does not hide it."""

from __future__ import annotations

from servesim.graph.opgraph import OpGraph
from servesim.hardware.device import Device
from servesim.scenario.sections import HardwareSection

#: Seconds of a step, of a host that nobody measured: the fit over 138 models and batch sizes under
#: vLLM 0.11.1 (``validation/energy/fit.py``).
HOST_STEP_S = 1.1e-3


def host_times(section: HardwareSection, device: Device, graph: OpGraph) -> dict[str, float]:
    """Fields of an engine: seconds of a step, of each sequence in it, and a second of operators.

    What the section says is all there is; else the device's measured times hold, if it has any.
    """
    if section.host_step_s is not None:
        return {"host_s": section.host_step_s}
    if device.host is None:
        return {"host_s": HOST_STEP_S}
    operators = sum(len(block.ops) * block.count for block in graph.blocks)
    return {
        "host_s": device.host.step_seconds(operators),
        "host_per_sequence_s": device.host.per_sequence_s,
        "host_share": device.host.operator_share,
    }
