"""Weights in host memory beside operators on other devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from servesim.errors import InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.hardware.load import load_device
from servesim.hardware.placement import Placement
from servesim.models.load import load_graph
from servesim.runtime.config import EngineConfig
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.scheduled_step import ScheduledStepModel
from servesim.runtime.step_model import CompiledStepModel
from servesim.scenario import Scenario
from servesim.scenario.build import Served, serve
from servesim.scenario.weights import host_reads, streamed
from servesim.units import GIB

LLAMA, MIXTRAL = "meta-llama/Llama-3.1-8B", "mistralai/Mixtral-8x7B-v0.1"
PCIE = 63e9  # bytes a second, of the H100's host link
DECODES = BatchShape((), 8, 8000, 1000, np.full(8, 1000))
PIM = {"device": "hbm_pim", "name": "pim", "link": {"bandwidth": 450e9, "latency": 1e-6}}


def served(ops: dict[str, str], parts: int = 1, model: str = LLAMA, **engine: Any) -> Served:
    placement = {
        "kind": "by_kind",
        "options": {"ops": ops},
        "devices": [PIM, {"device": "xeon_8480", "name": "cpu"}],
        "sub_batches": parts,
    }
    sections: dict[str, Any] = {"model": model, "hardware": "h100_sxm", "placement": placement}
    scenario = Scenario.of(**sections, engine={"max_model_len": 4096, **engine})
    return serve(scenario.instances[0])


@pytest.mark.parametrize(("model", "params"), [(LLAMA, ""), (MIXTRAL, ""), (MIXTRAL, "experts")])
def test_one_device_reads_as_without_a_placement(model: str, params: Any) -> None:
    graph, device = load_graph(model), load_device("h200_sxm")
    alone = Placement.tensor_parallel(graph, device)
    engine = EngineConfig(cpu_offload_gb=8.0, cpu_offload_params=params)
    reading = ScheduledStepModel(alone, reads=host_reads(alone, engine))
    plain = streamed(CompiledStepModel(alone), engine, graph, device)
    assert reading.seconds(DECODES) == pytest.approx(plain.seconds(DECODES), rel=1e-12)


def test_what_the_gpu_reads_adds_to_a_chain() -> None:
    beside = {"attention": "pim"}
    plain, outside = served(beside), served(beside, cpu_offload_gb=2.0)
    seconds = outside.step_model.seconds(DECODES)
    assert seconds == pytest.approx(plain.step_model.seconds(DECODES) + 2 * GIB / PCIE)
    rows = outside.step_model.cost_breakdown(DECODES)
    assert sum(row.seconds for row in rows) == pytest.approx(seconds)
    read = sum(row.seconds for row in rows if row.label == "weights from host")
    assert read == pytest.approx(2 * GIB / PCIE)
    # What is kept outside is not on the GPU; its KV cache is on the other device.
    assert plain.memory.weight_bytes - outside.memory.weight_bytes == pytest.approx(2 * GIB)


def test_each_part_reads_its_weights_while_the_other_attends() -> None:
    model = served({"attention": "pim"}, parts=2, cpu_offload_gb=2.0).step_model
    assert isinstance(model, ScheduledStepModel)
    batch = BatchShape((), 128, 128 * 2000, 2000, np.full(128, 2000))
    busy, seconds = model.busy_seconds(batch), model.seconds(batch)
    assert busy["h100_sxm"] > 2 * 2 * GIB / PCIE
    assert busy["h100_sxm"] <= seconds < busy["h100_sxm"] + busy["pim"]


def test_a_host_that_computes_sends_over_the_same_link() -> None:
    model = served({"down_proj": "cpu"}, cpu_offload_gb=1.0).step_model
    assert isinstance(model, ScheduledStepModel)
    assert model.reads is not None
    assert model.reads.way == "cpu->h100_sxm"


def test_stages_read_their_shares() -> None:
    beside = {"attention": "pim"}
    two = {"pipeline_parallel_size": 2}
    plain, outside = (served(beside, **two, cpu_offload_gb=gb).step_model for gb in (0.0, 2.0))
    assert isinstance(plain, StagedStepModel)
    assert isinstance(outside, StagedStepModel)
    expected = [seconds + 2 * GIB / PCIE for seconds in plain.stage_seconds(DECODES)]
    assert outside.stage_seconds(DECODES) == pytest.approx(expected)


def test_refused() -> None:
    beside = {"attention": "pim"}
    with pytest.raises(UnsupportedError, match="offload_prefetch_step"):
        served(beside, cpu_offload_gb=1.0, offload_prefetch_step=1)
    with pytest.raises(InputError, match="the layers of meta-llama"):
        served({"attention": "pim", "gemm": "cpu"}, cpu_offload_gb=8.0)
